/** @file fs_planted.h  Bugs on purpose, by which the simulator is tested. */
#ifndef FATHOM_FS_PLANTED_H
#define FATHOM_FS_PLANTED_H

/* Planted bugs: the simulator's own test builds these sources with FM_FS_PLANTED and checks that each is found. */
#ifdef FM_FS_PLANTED
extern int fm_fs_planted_bug;
#define FM_FS_PLANT(bug) (fm_fs_planted_bug == (bug))
#else
#define FM_FS_PLANT(bug) 0
#endif
enum fm_fs_plant {
    FM_FS_PLANT_NONE,
    FM_FS_PLANT_ACK_BEFORE_FLUSH, // a chunk is said to be stored before its journal record is durable
    FM_FS_PLANT_DATA_UNSYNCED,    // the journal record is written before the data is durable
    FM_FS_PLANT_DIRTY_READ,       // a dirty replica answers without asking the tail
    FM_FS_PLANT_READ_PENDING,     // a dirty replica hands out what is not committed
    FM_FS_PLANT_STALE_LEASE,      // a replica reads although its lease has run out
    FM_FS_PLANT_DOUBLE_APPLY,     // the head does not remember requests
    FM_FS_PLANT_FORGET_SESSIONS,  // what the head remembers is not recovered from disk
    FM_FS_PLANT_SKIP_FORWARD,     // the head commits although its successor did not answer
    FM_FS_PLANT_LOST_RESYNC,      // recovery skips chunks that the successor has in another version
    FM_FS_PLANT_EARLY_SERVING,    // a target says it is complete as soon as it is back
    FM_FS_PLANT_NO_CHAIN_CHECK,   // the version of the chain that a message names is not looked at
    FM_FS_PLANT_ANY_RESTARTS,     // any replica, complete or not, may restart a chain
    FM_FS_PLANT_NO_CHECKSUM,      // what was read is not compared with its checksums
    FM_FS_PLANT_NO_FENCE,         // a deposed manager may still commit
    FM_FS_PLANT_TORN_JOURNAL,     // replay believes a batch whose checksum is wrong
    FM_FS_PLANT_NO_FLOOR,         // removed chunks are forgotten, and their versions begin anew
    FM_FS_PLANT_FLOOR_EARLY,      // the floor is raised over chunks that are being made
    FM_FS_PLANT_FLOOR_ANYWHERE,   // each replica raises its floor when it likes
    FM_FS_PLANT_FORGET_FILLED,    // a replica that is being filled forgets removed chunks
    FM_FS_PLANT_OVERLAY_IGNORED,  // reads take a block's bytes without what it is owed
    FM_FS_PLANT_LAND_EARLY,      // a patch is written to its place while versions without it may be asked for
    FM_FS_PLANT_LAND_UNSYNCED,   // a patch is forgotten before its place is durable
    FM_FS_PLANT_OWED_FORGOTTEN,  // checkpoints leave out what blocks are owed
    FM_FS_PLANT_FORGOTTEN_TWICE, // requests of clients that were forgotten are taken for new ones
    FM_FS_PLANT_ANY_VERSION,     // what is to be done to one version of a chunk alone is done to any
    FM_FS_PLANT_NAMES_LOOP,      // a directory may be moved into itself
    FM_FS_PLANT_NAMES_TWICE,     // a request that is repeated happens again
    FM_FS_PLANT_NAMES_LINKS,     // a removed name is not taken off the count of links
    FM_FS_PLANT_NAMES_QUOTA,     // what a removed file was charged stays charged
    FM_FS_PLANT_NAMES_NOT_EMPTY, // directories are removed with what is in them
    FM_FS_PLANT_NAMES_CHUNKS,    // a truncation leaves its chunks behind
    FM_FS_PLANT_NAMES_COLLECT,   // the collector goes on where chunks could not be removed
    FM_FS_PLANT_NAMES_NUMBERS,   // two servers hand out the same numbers
    FM_FS_PLANT_NAMES_TAIL,      // files grow over what lies behind their end
    FM_FS_PLANT_NAMES_UNSETTLED, // who has written does not look again
    FM_FS_PLANT_COUNT
};

#endif
