/* What the reader and the writer of safetensors files share. The layout is in fathom/safetensors.h. */
#ifndef SAFETENSORS_PRIVATE_H
#define SAFETENSORS_PRIVATE_H

#define SAFETENSORS_METADATA "__metadata__"

enum {
    SAFETENSORS_PREFIX = 8,
    SAFETENSORS_HEADER_MAX = 100000000, // as the original
    SAFETENSORS_ALIGNMENT = 8,
};

#endif
