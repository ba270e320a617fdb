// Two file systems that must agree: the same random calls, and every answer compared.
#include "fm_test.h"

#include "fs_agree.h"

// Few names, so that they meet: three levels of three.
static const char *any_name(fm_gen *gen, char out[16])
{
    size_t used = 0;
    int levels = (int)fm_gen_int(gen, 1, 3);
    for (int i = 0; i < levels; i++) {
        if (i)
            out[used++] = '/';
        out[used++] = (char)('a' + fm_gen_int(gen, 0, 2));
    }
    out[used] = 0;
    return out;
}

static fm_status agree(fm_status real, fm_status model, const char *call, const char *path)
{
    if (real != model)
        fail_msg("%s %s: the file system says %s, the model %s", call, path, fm_base_status_name(real),
                 fm_base_status_name(model));
    return real;
}

#define BOTH(pair, call, path, ...) \
    agree(call((pair)->real, __VA_ARGS__), call((pair)->model, __VA_ARGS__), #call, path)

// Syncs are rare: on a busy disk one takes as long as all the rest.
static int sometimes(fm_gen *gen)
{
    return fm_gen_chance(gen, 0.03);
}

static void agree_on_file(struct pair *pair, const char *path)
{
    static const unsigned modes[] = {
        FM_FS_READ,
        FM_FS_READ | FM_FS_WRITE,
        FM_FS_READ | FM_FS_WRITE | FM_FS_CREATE,
        FM_FS_READ | FM_FS_WRITE | FM_FS_CREATE | FM_FS_EXCLUSIVE,
        FM_FS_READ | FM_FS_WRITE | FM_FS_TRUNCATE,
        FM_FS_READ | FM_FS_WRITE | FM_FS_CREATE | FM_FS_TRUNCATE,
    };
    unsigned char data[600];
    unsigned char real_data[1500];
    unsigned char model_data[1500];
    fm_gen *gen = pair->gen;
    fm_fs_file *real;
    fm_fs_file *model;
    unsigned mode = modes[fm_gen_int(gen, 0, 5)];
    fm_status status = fm_fs_file_open(pair->real, path, mode, &real);
    if (agree(status, fm_fs_file_open(pair->model, path, mode, &model), "open", path) < 0)
        return;
    for (int i = (int)fm_gen_int(gen, 0, 3); i > 0; i--) {
        size_t length = (size_t)fm_gen_int(gen, 0, sizeof data);
        uint64_t offset = (uint64_t)fm_gen_int(gen, 0, 800);
        size_t real_got = 0;
        size_t model_got = 0;
        fm_gen_fill(gen, data, length);
        switch (fm_gen_int(gen, 0, 2)) {
        case 0:
            agree(fm_fs_file_write(real, data, length, offset), fm_fs_file_write(model, data, length, offset),
                  "write", path);
            break;
        case 1:
            agree(fm_fs_file_truncate(real, offset), fm_fs_file_truncate(model, offset), "truncate", path);
            break;
        default:
            if (sometimes(gen))
                agree(fm_fs_file_sync(real), fm_fs_file_sync(model), "sync", path);
            break;
        }
        agree(fm_fs_file_read(real, real_data, sizeof real_data, offset / 2, &real_got),
              fm_fs_file_read(model, model_data, sizeof model_data, offset / 2, &model_got), "read", path);
        assert_int_equal(real_got, model_got);
        assert_memory_equal(real_data, model_data, real_got);
    }
    fm_fs_file_close(real);
    fm_fs_file_close(model);
}

static void agree_on_stat(struct pair *pair, const char *path)
{
    fm_fs_info real;
    fm_fs_info model;
    fm_status status = fm_fs_stat(pair->real, path, &real);
    if (agree(status, fm_fs_stat(pair->model, path, &model), "stat", path) < 0)
        return;
    assert_int_equal(real.type, model.type);
    assert_int_equal(real.size, model.size);
}

static void agree_on_list(struct pair *pair, const char *path)
{
    fm_fs_list *real;
    fm_fs_list *model;
    const fm_fs_entry *real_entry;
    const fm_fs_entry *model_entry;
    fm_status status = fm_fs_list_open(pair->real, path, &real);
    if (agree(status, fm_fs_list_open(pair->model, path, &model), "list", path) < 0)
        return;
    do {
        assert_ok(fm_fs_list_next(real, &real_entry));
        assert_ok(fm_fs_list_next(model, &model_entry));
        assert_true((real_entry == NULL) == (model_entry == NULL));
        if (real_entry && model_entry) {
            assert_string_equal(real_entry->name, model_entry->name);
            assert_int_equal(real_entry->type, model_entry->type);
        }
    } while (real_entry);
    fm_fs_list_close(real);
    fm_fs_list_close(model);
}

static void agree_on_content(struct pair *pair, const char *path)
{
    void *real;
    void *model;
    size_t real_length;
    size_t model_length;
    fm_status status = fm_fs_read_all(pair->real, path, 1000, &real, &real_length);
    if (agree(status, fm_fs_read_all(pair->model, path, 1000, &model, &model_length), "read_all", path) < 0)
        return;
    assert_int_equal(real_length, model_length);
    assert_memory_equal(real, model, real_length + 1);
    fm_base_mem_free(real);
    fm_base_mem_free(model);
}

void fm_fs_agree_step(struct pair *pair)
{
    fm_gen *gen = pair->gen;
    char path[16];
    char other[16];
    any_name(gen, path);
    any_name(gen, other);
    unsigned exclusive = fm_gen_chance(gen, 0.3) ? FM_FS_EXCLUSIVE : 0;
    unsigned no_sync = sometimes(gen) ? 0 : FM_FS_NO_SYNC;
    unsigned parents = fm_gen_chance(gen, 0.5) ? FM_FS_PARENTS : 0;
    switch (fm_gen_int(gen, 0, 11)) {
    case 0:
    case 1:
        BOTH(pair, fm_fs_mkdir, path, path, parents);
        break;
    case 2:
        BOTH(pair, fm_fs_unlink, path, path);
        break;
    case 3:
        BOTH(pair, fm_fs_rmdir, path, path);
        break;
    case 4:
        if (fm_gen_chance(gen, 0.3)) // not so often that nothing grows
            BOTH(pair, fm_fs_remove_all, path, path);
        break;
    case 5:
    case 6:
        BOTH(pair, fm_fs_rename, path, path, other, exclusive);
        break;
    case 7:
        if (sometimes(gen))
            BOTH(pair, fm_fs_dir_sync, path, path);
        else
            BOTH(pair, fm_fs_link, path, path, other);
        break;
    case 8:
        BOTH(pair, fm_fs_write_all, path, path, other, strlen(other), exclusive | no_sync);
        break;
    default:
        agree_on_file(pair, path);
        break;
    }
    agree_on_stat(pair, path);
    agree_on_list(pair, fm_gen_chance(gen, 0.3) ? "." : path);
    agree_on_content(pair, other);
}
