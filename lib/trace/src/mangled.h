/* Names as C++ compilers mangle them. */
#ifndef FM_TRACE_MANGLED_H
#define FM_TRACE_MANGLED_H

#include <stddef.h>

/*
 * Writes what rules look for in a name mangled by the Itanium C++ ABI, 0-terminated and cut to `room` >= 1 bytes: scopes,
 * template arguments and literals ("ep::dispatch<0, 8>"); types that have no name of their own, and substitutions, are left
 * out. Returns 0, and writes nothing, for a name that is not mangled.
 */
int fm_trace_unmangle(const char *name, char *to, size_t room);

#endif
