/**
 * @file ring.h
 * What a program and a mount's process share: the memory of a ring, and the messages by which they come together.
 *
 * The program makes the memory, sealed so that it cannot shrink, and hands it over a UNIX socket (SOCK_SEQPACKET) whose
 * address an ioctl on the mount tells. The mount's process makes the descriptors by which each wakes the other. It believes
 * nothing that lies in the memory: it reads each entry once, counts for itself, and closes the connection when the program's
 * counts make no sense. A ring's memory:
 *
 *   OFFSET SIZE
 *   0      4    prepared: entries that the program has put in, counted for ever
 *   64     4    asks: 1: the mount's process sleeps and wants to be woken when there is more
 *   128    4    answered: results that the mount's process has put in
 *   192    4    taken: results that the program has taken out
 *   256    4    wanted: the program sleeps until `answered` has come so far
 *   260    4    sleeps: 1: it does
 *   4096   64*n entries, at (count mod n); n is a power of two
 *   ...    16*n results, likewise
 *
 * An entry:                                      A result:
 *   0   16  the memory's id                        0  4  index
 *   16  8   offset in it                           4  4  0
 *   24  4   the file's number                      8  8  bytes, or a negative errno value
 *   28  4   index, the program's
 *   32  8   offset in the file
 *   40  8   length
 *   48  16  0
 */
#ifndef FATHOM_RING_H
#define FATHOM_RING_H

#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>

enum {
    FM_FS_RING_PREPARED = 0,
    FM_FS_RING_ASKS = 64,
    FM_FS_RING_ANSWERED = 128,
    FM_FS_RING_TAKEN = 192,
    FM_FS_RING_WANTED = 256,
    FM_FS_RING_SLEEPS = 260,
    FM_FS_RING_ENTRIES = 4096,
    FM_FS_RING_ENTRY_BYTES = 64,
    FM_FS_RING_RESULT_BYTES = 16,
    FM_FS_RING_MAX = 65536, // entries
    FM_FS_RING_ID_BYTES = 16
};

struct fm_fs_ring_entry {
    uint8_t id[FM_FS_RING_ID_BYTES];
    uint64_t place;
    uint32_t file;
    int32_t index;
    uint64_t offset;
    uint64_t length;
    uint64_t reserved[2];
};
_Static_assert(sizeof(struct fm_fs_ring_entry) == FM_FS_RING_ENTRY_BYTES, "as the table has it");

struct fm_fs_ring_result {
    int32_t index;
    int32_t reserved;
    int64_t result;
};
_Static_assert(sizeof(struct fm_fs_ring_result) == FM_FS_RING_RESULT_BYTES, "as the table has it");

// Slots for so many entries.
static inline uint32_t fm_fs_ring_slots(uint32_t entries)
{
    uint32_t slots = 1;
    while (slots < entries)
        slots *= 2;
    return slots;
}
static inline size_t fm_fs_ring_bytes(uint32_t slots)
{
    return FM_FS_RING_ENTRIES + (size_t)slots * (FM_FS_RING_ENTRY_BYTES + FM_FS_RING_RESULT_BYTES);
}
static inline uint32_t *fm_fs_ring_word(uint8_t *memory, size_t offset)
{
    return (uint32_t *)(void *)(memory + offset);
}

/* Messages. The program asks, the mount's process answers each in turn. Byte order and sizes are the machine's. */

enum { FM_FS_RING_MAGIC = 0x726d6601, FM_FS_RING_VERSION = 1 };

enum fm_fs_ring_kind {
    FM_FS_RING_IOV_MAKE = 1, // id, size, block_bytes; with the memory
    FM_FS_RING_IOV_OPEN,     // id; the answer brings the memory and its size
    FM_FS_RING_IOV_UNLINK,   // id
    FM_FS_RING_IOV_DROP,     // id
    FM_FS_RING_MAKE, // number (entries), writes, io_depth, priority, timeout_ms, flags; with the memory. The answer
                     // brings its number and the two descriptors: to wake the mount's process, to be woken
    FM_FS_RING_DROP,     // number
    FM_FS_RING_FILE_ADD, // with the open file; the answer brings its number
    FM_FS_RING_FILE_DROP // number
};

struct fm_fs_ring_ask {
    uint32_t magic;
    uint16_t version;
    uint16_t kind;
    uint8_t id[FM_FS_RING_ID_BYTES];
    uint64_t size;
    uint64_t block_bytes;
    uint32_t number;
    int32_t io_depth;
    int32_t priority;
    int32_t timeout_ms;
    uint64_t flags;
    uint32_t writes;
    uint32_t reserved;
};

struct fm_fs_ring_answer {
    uint32_t magic;
    int32_t error; // 0 or a negative errno value
    uint64_t value;
};

/* ioctls on any open file of a mount */

#define FM_FS_RING_IOC_MAGIC _IOR('h', 2, uint32_t) // as 3FS's; gives HF3FS_SUPER_MAGIC

// The socket's name in the abstract namespace, without the 0 before it.
struct fm_fs_ring_address {
    char name[64];
};
#define FM_FS_RING_IOC_ADDRESS _IOR('h', 128, struct fm_fs_ring_address)

#endif
