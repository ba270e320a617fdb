#include "fm_test.h"
#include "fm_gen.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fathom/crc.h"

#include "net_area.h"

enum { GRANULES = 100 };

// Places against a plain book: no two overlap, none is refused that there is room for, the lowest comes first.
static void places_do_not_overlap(fm_gen *gen)
{
    struct net_area area = {.granules = GRANULES};
    struct net_place taken[GRANULES];
    char book[GRANULES + 1] = {0};
    int count = 0;
    for (int step = 0; step < 300; step++) {
        if (count && fm_gen_chance(gen, 0.45)) {
            int which = (int)fm_gen_int(gen, 0, count - 1);
            fm_net_area_give_back(&area, taken[which]);
            memset(book + taken[which].first, 0, taken[which].count);
            taken[which] = taken[--count];
            continue;
        }
        uint32_t wanted = (uint32_t)fm_gen_int(gen, 1, fm_gen_chance(gen, 0.1) ? GRANULES : 12);
        int lowest = -1;
        for (int at = 0; lowest < 0 && at + (int)wanted <= GRANULES; at++)
            if (!memchr(book + at, 1, wanted))
                lowest = at;
        size_t bytes = (size_t)wanted * NET_AREA_GRANULE - (size_t)fm_gen_int(gen, 0, NET_AREA_GRANULE - 1);
        struct net_place place = fm_net_area_take(&area, bytes);
        assert_int_equal(place.count, lowest < 0 ? 0 : wanted);
        if (lowest < 0)
            continue;
        assert_int_equal(place.first, lowest);
        memset(book + lowest, 1, wanted);
        taken[count++] = place;
    }
    assert_int_equal(fm_net_area_take(&area, 0).count, 0);
    assert_int_equal(fm_net_area_take(&area, GRANULES * (size_t)NET_AREA_GRANULE + 1).count, 0);
    assert_int_equal(fm_net_area_take(&area, SIZE_MAX).count, 0);
}

static void places_are_the_lowest_and_apart(void **state)
{
    (void)state;
    fm_gen_property(200, places_do_not_overlap);
}

static void what_one_end_puts_the_other_gets(void **state)
{
    (void)state;
    enum { BYTES = 150001 };
    static uint8_t data[BYTES];
    static uint8_t landing[BYTES];
    fm_gen gen = fm_gen_seeded(1);
    fm_gen_fill(&gen, data, sizeof data);
    struct net_area *ours;
    struct net_area *theirs;
    int fd;
    assert_ok(fm_net_area_new(8, &ours, &fd));
    assert_ok(fm_net_area_map(fd, 8, &theirs));
    close(fd);
    (void)fm_net_area_take(ours, 1);
    struct net_place place = fm_net_area_take(ours, BYTES);
    const struct iovec pieces[] = {{data, 70001}, {data + 70001, 0}, {data + 70001, BYTES - 70001}};
    uint32_t crc = 0;
    fm_net_area_put(ours, place, pieces, 3, &crc);
    assert_int_equal(crc, fm_base_crc32c(0, data, BYTES));
    assert_int_equal(fm_net_area_get(theirs, place, landing, BYTES), crc);
    assert_memory_equal(landing, data, BYTES);
    theirs->bytes[place.first * (size_t)NET_AREA_GRANULE] ^= 1;
    assert_int_not_equal(fm_net_area_get(ours, place, landing, BYTES), crc);
    fm_net_area_put(ours, place, pieces, 3, NULL);
    assert_int_equal(fm_net_area_get(theirs, place, landing, BYTES), crc);
    fm_net_area_free(ours);
    assert_int_equal(fm_net_area_get(theirs, place, landing, BYTES), crc); // whoever ends, the other's stays
    fm_net_area_free(theirs);
}

// Whatever a peer sends in the place of an area, using it must not be able to fail.
static void strange_descriptors_are_refused(void **state)
{
    (void)state;
    struct net_area *area;
    const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    for (int missing = F_SEAL_SEAL; missing <= F_SEAL_GROW; missing *= 2) {
        int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_int_equal(ftruncate(fd, 4L * NET_AREA_GRANULE), 0);
        assert_int_equal(fcntl(fd, F_ADD_SEALS, all & ~missing), 0);
        assert_fails(fm_net_area_map(fd, 4, &area), FM_ERR_FORMAT, "not sealed");
        close(fd);
    }
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, 4L * NET_AREA_GRANULE), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, all), 0);
    assert_fails(fm_net_area_map(fd, 5, &area), FM_ERR_FORMAT, "does not have its 5 granules");
    assert_fails(fm_net_area_map(fd, 3, &area), FM_ERR_FORMAT, "does not have its 3 granules");
    assert_fails(fm_net_area_map(fd, 0, &area), FM_ERR_FORMAT, "expected 1 to");
    assert_fails(fm_net_area_map(fd, NET_AREA_GRANULES_MAX + 1, &area), FM_ERR_FORMAT, "expected 1 to");
    close(fd);
    fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, 4L * NET_AREA_GRANULE), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, all | F_SEAL_WRITE), 0);
    assert_fails(fm_net_area_map(fd, 4, &area), FM_ERR_NOMEM, "cannot map"); // a reply could not be written
    close(fd);
    fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
    if (fd >= 0) { // where the system has huge pages at all, although none may be free
        if (ftruncate(fd, 0) == 0 && fcntl(fd, F_ADD_SEALS, all) == 0)
            assert_fails(fm_net_area_map(fd, 32, &area), FM_ERR_FORMAT, "not of ordinary memory");
        close(fd);
    }
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_fails(fm_net_area_map(ends[0], 4, &area), FM_ERR_FORMAT, "not sealed");
    close(ends[0]);
    close(ends[1]);
    fd = open(fm_test_tmpdir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) {
        assert_fails(fm_net_area_map(fd, 4, &area), FM_ERR_FORMAT, "not sealed");
        close(fd);
    }
}

static void its_size_cannot_be_changed(void **state)
{
    (void)state;
    struct net_area *area;
    int fd;
    assert_ok(fm_net_area_new(2, &area, &fd));
    assert_int_not_equal(ftruncate(fd, 0), 0);
    assert_int_not_equal(ftruncate(fd, 3L * NET_AREA_GRANULE), 0);
    close(fd);
    fm_net_area_free(area);
    fm_net_area_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places_are_the_lowest_and_apart),
        cmocka_unit_test(what_one_end_puts_the_other_gets),
        cmocka_unit_test(strange_descriptors_are_refused),
        cmocka_unit_test(its_size_cannot_be_changed),
    };
    return fm_test_run("net.area", tests);
}
