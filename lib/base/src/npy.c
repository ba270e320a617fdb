#include "fathom/npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/numfmt.h"

static const char magic[] = "\x93NUMPY";

enum {
    MAGIC_BYTES = sizeof magic - 1,
    PREFIX_V1 = MAGIC_BYTES + 2 + 2,
    PREFIX_V2 = MAGIC_BYTES + 2 + 4,
    HEADER_ALIGNMENT = 64, // what NumPy pads to, for mapped arrays to suit vector loads
    HEADER_ROOM = 320,     // eight dimensions of 19 digits and the rest fit
};

static const struct {
    char code[3];
    fm_dtype dtype;
} dtypes[] = {
    {"f2", FM_DTYPE_F16}, {"f4", FM_DTYPE_F32}, {"f8", FM_DTYPE_F64}, {"i1", FM_DTYPE_I8},
    {"i2", FM_DTYPE_I16}, {"i4", FM_DTYPE_I32}, {"i8", FM_DTYPE_I64}, {"u1", FM_DTYPE_U8},
    {"u2", FM_DTYPE_U16}, {"u4", FM_DTYPE_U32}, {"u8", FM_DTYPE_U64}, {"b1", FM_DTYPE_BOOL},
};

enum { DTYPE_COUNT = sizeof dtypes / sizeof dtypes[0] };

/** The header's text, read from left to right. */
struct cursor {
    const char *name;
    const char *first;
    const char *at;
    const char *end;
};

struct header {
    fm_dtype dtype;
    int fortran_order;
    int ndim;
    int64_t shape[FM_TENSOR_NDIM_MAX];
};

static fm_status malformed(const struct cursor *cursor, const char *expected)
{
    return fm_base_error_set(FM_ERR_FORMAT, "%s: byte %td of the header: expected %s", cursor->name,
                             cursor->at - cursor->first, expected);
}

static void skip_spaces(struct cursor *cursor)
{
    while (cursor->at < cursor->end && *cursor->at == ' ')
        cursor->at++;
}

/** Skips spaces and takes `token` if it comes next. */
static int take(struct cursor *cursor, const char *token)
{
    skip_spaces(cursor);
    size_t length = strlen(token);
    if ((size_t)(cursor->end - cursor->at) < length || memcmp(cursor->at, token, length) != 0)
        return 0;
    cursor->at += length;
    return 1;
}

/** A string in either quotes, cut at `room`. Python's escapes cannot occur in what we look for. */
static fm_status take_string(struct cursor *cursor, char *out_text, size_t room)
{
    skip_spaces(cursor);
    char quote = cursor->at < cursor->end ? *cursor->at : 0;
    if (quote != '\'' && quote != '"')
        return malformed(cursor, "a string in quotes");
    cursor->at++;
    size_t length = 0;
    for (; cursor->at < cursor->end && *cursor->at != quote; cursor->at++) {
        if (*cursor->at < 0x20 || *cursor->at > 0x7E)
            return malformed(cursor, "a printable character");
        if (length + 1 < room)
            out_text[length++] = *cursor->at;
    }
    if (cursor->at == cursor->end)
        return malformed(cursor, "the end of the string");
    cursor->at++;
    out_text[length] = 0;
    return FM_OK;
}

static fm_status take_dtype(struct cursor *cursor, struct header *header)
{
    if (take(cursor, "["))
        return fm_base_error_set(FM_ERR_UNSUPPORTED,
                                 "%s: structured arrays are not supported; save one field of it",
                                 cursor->name);
    char descr[16];
    FM_TRY(take_string(cursor, descr, sizeof descr));
    int index = 0;
    while (index < DTYPE_COUNT && (!descr[0] || strcmp(descr + 1, dtypes[index].code) != 0))
        index++;
    if (index < DTYPE_COUNT) {
        int one_byte = descr[2] == '1';
        if (descr[0] == '<' || (one_byte && descr[0] == '|')) {
            header->dtype = dtypes[index].dtype;
            return FM_OK;
        }
        if (descr[0] == '>')
            return fm_base_error_set(FM_ERR_UNSUPPORTED,
                                     "%s: the array is big-endian (%s); save it with .astype('<%s')",
                                     cursor->name, descr, dtypes[index].code);
    }
    return fm_base_error_set(
        FM_ERR_UNSUPPORTED,
        "%s: dtype '%s' is not supported; expected <f2 <f4 <f8, |i1 <i2 <i4 <i8, |u1 <u2 <u4 <u8 "
        "or |b1",
        cursor->name, descr);
}

static fm_status take_dimension(struct cursor *cursor, int64_t *out_size)
{
    skip_spaces(cursor);
    const char *first = cursor->at;
    int64_t size = 0;
    for (; cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9'; cursor->at++)
        if (__builtin_mul_overflow(size, 10, &size) || __builtin_add_overflow(size, *cursor->at - '0', &size))
            return fm_base_error_set(FM_ERR_LIMIT, "%s: a dimension overflows 64 bits", cursor->name);
    if (cursor->at == first)
        return malformed(cursor, "a dimension: an integer of at least 0");
    take(cursor, "L"); // Python 2 wrote its long integers so
    *out_size = size;
    return FM_OK;
}

static fm_status take_shape(struct cursor *cursor, struct header *header)
{
    if (!take(cursor, "("))
        return malformed(cursor, "a tuple such as (24, 256)");
    header->ndim = 0;
    while (!take(cursor, ")")) {
        if (header->ndim == FM_TENSOR_NDIM_MAX)
            return fm_base_error_set(FM_ERR_UNSUPPORTED, "%s: the array has more than %d dimensions",
                                     cursor->name, FM_TENSOR_NDIM_MAX);
        FM_TRY(take_dimension(cursor, &header->shape[header->ndim++]));
        if (!take(cursor, ",") && (header->ndim == 1 || cursor->at == cursor->end || *cursor->at != ')'))
            return malformed(cursor, "a comma"); // (3) is an integer to Python, (3,) a tuple
    }
    return FM_OK;
}

static fm_status take_order(struct cursor *cursor, struct header *header)
{
    header->fortran_order = take(cursor, "True");
    if (!header->fortran_order && !take(cursor, "False"))
        return malformed(cursor, "True or False");
    return FM_OK;
}

static fm_status take_header(struct cursor *cursor, struct header *header)
{
    static const struct {
        const char *name;
        fm_status (*take)(struct cursor *cursor, struct header *header);
    } keys[] = {{"descr", take_dtype}, {"fortran_order", take_order}, {"shape", take_shape}};
    enum { KEY_COUNT = sizeof keys / sizeof keys[0] };
    int seen[KEY_COUNT] = {0};
    if (!take(cursor, "{"))
        return malformed(cursor, "{");
    while (!take(cursor, "}")) {
        char name[16];
        FM_TRY(take_string(cursor, name, sizeof name));
        int key = 0;
        while (key < KEY_COUNT && strcmp(name, keys[key].name) != 0)
            key++;
        if (key == KEY_COUNT || seen[key]++)
            return fm_base_error_set(
                FM_ERR_FORMAT,
                "%s: key '%s' in the header; expected descr, fortran_order and shape, once each",
                cursor->name, name);
        if (!take(cursor, ":"))
            return malformed(cursor, "a colon");
        FM_TRY(keys[key].take(cursor, header));
        if (!take(cursor, ",") && (cursor->at == cursor->end || *cursor->at != '}'))
            return malformed(cursor, "a comma or }");
    }
    for (int key = 0; key < KEY_COUNT; key++)
        if (!seen[key])
            return fm_base_error_set(FM_ERR_FORMAT, "%s: the header lacks '%s'", cursor->name,
                                     keys[key].name);
    take(cursor, "\n");
    return cursor->at == cursor->end ? FM_OK : malformed(cursor, "spaces and a newline at the end");
}

/** Finds the header's text; the elements follow it. */
static fm_status find_header(const char *bytes, size_t length, const char *name, struct cursor *out_cursor)
{
    if (length < PREFIX_V1 || memcmp(bytes, magic, MAGIC_BYTES) != 0)
        return fm_base_error_set(FM_ERR_FORMAT, "%s is not a .npy file: it does not begin with \\x93NUMPY",
                                 name);
    int major = (uint8_t)bytes[MAGIC_BYTES];
    int minor = (uint8_t)bytes[MAGIC_BYTES + 1];
    if (major < 1 || major > 3 || minor != 0)
        return fm_base_error_set(FM_ERR_VERSION, "%s: .npy version %d.%d; expected 1.0, 2.0 or 3.0", name,
                                 major, minor);
    size_t prefix = major == 1 ? PREFIX_V1 : PREFIX_V2;
    if (length < prefix)
        return fm_base_error_set(FM_ERR_FORMAT, "%s: the file ends within the length of its header", name);
    const char *size_field = bytes + MAGIC_BYTES + 2;
    size_t header_length = major == 1 ? fm_get_le16(size_field) : fm_get_le32(size_field);
    if (header_length > length - prefix)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s: a header of %zu bytes goes beyond the file, which has %zu", name,
                                 header_length, length);
    *out_cursor = (struct cursor){name, bytes + prefix, bytes + prefix, bytes + prefix + header_length};
    return FM_OK;
}

fm_status fm_base_npy_parse(const void *bytes, size_t length, const char *name, fm_tensor *out_tensor)
{
    struct cursor cursor = {0};
    struct header header = {0};
    FM_TRY(find_header(bytes, length, name, &cursor));
    FM_TRY(take_header(&cursor, &header));
    size_t size = 0;
    fm_status status = fm_base_tensor_bytes(header.dtype, header.ndim, header.shape, &size);
    if (status < 0)
        return fm_base_error_prefix(status, "%s", name);
    size_t held = length - (size_t)(cursor.end - (const char *)bytes);
    if (size != held)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s: dtype and shape take %zu bytes; the file holds %zu behind its header",
                                 name, size, held);
    // Tensors have one pointer, for readers and writers alike; the public header says that these data are read-only.
    void *data;
    memcpy(&data, &cursor.end, sizeof data);
    fm_tensor tensor;
    FM_TRY(fm_base_tensor_init(&tensor, header.dtype, header.ndim, header.shape, data));
    if (header.fortran_order) {
        int64_t stride = 1;
        for (int i = 0; i < tensor.ndim; i++) {
            tensor.stride[i] = stride;
            stride *= tensor.shape[i];
        }
    }
    *out_tensor = tensor;
    return FM_OK;
}

struct fm_npy {
    fm_file_map map;
    fm_tensor tensor;
};

fm_status fm_base_npy_open(const char *path, fm_npy **out_file)
{
    fm_npy *file = fm_base_mem_zalloc(1, sizeof *file);
    if (!file) {
        fm_base_error_set(FM_ERR_NOMEM, "%s: no memory to read it", path);
        return FM_ERR_NOMEM;
    }
    fm_status status = fm_base_file_map(path, &file->map);
    if (status == FM_OK)
        status = fm_base_npy_parse(file->map.bytes, file->map.length, path, &file->tensor);
    if (status == FM_OK)
        *out_file = file;
    else
        fm_base_npy_close(file);
    return status;
}

const fm_tensor *fm_base_npy_tensor(const fm_npy *file)
{
    return &file->tensor;
}

void fm_base_npy_close(fm_npy *file)
{
    if (!file)
        return;
    fm_base_file_unmap(&file->map);
    fm_base_mem_free(file);
}

/** An element at any address as float32. */
static float element_f32(fm_dtype dtype, const char *from)
{
    uint64_t bits = 0;
    switch (fm_base_dtype_bits(dtype)) {
    case 8:
        bits = (uint8_t)*from;
        break;
    case 16:
        bits = fm_get_le16(from);
        break;
    case 32:
        bits = fm_get_le32(from);
        break;
    default:
        bits = fm_get_le64(from);
        break;
    }
    double real;
    switch (dtype) {
    case FM_DTYPE_BOOL:
        return bits ? 1.0f : 0.0f;
    case FM_DTYPE_F16:
        return fm_fp16_to_f32((fm_fp16)bits);
    case FM_DTYPE_F32:
        return fm_f32_from_bits((uint32_t)bits);
    case FM_DTYPE_F64:
        memcpy(&real, &bits, sizeof real);
        return (float)real;
    case FM_DTYPE_I8:
        return (float)(int8_t)bits;
    case FM_DTYPE_I16:
        return (float)(int16_t)bits;
    case FM_DTYPE_I32:
        return (float)(int32_t)bits;
    case FM_DTYPE_I64:
        return (float)(int64_t)bits;
    default:
        return (float)bits;
    }
}

/** Copies in row-major order: the innermost dimension in a loop, the others counted like the digits of a number. */
static void copy_f32(const fm_tensor *from, float *to)
{
    if (fm_base_tensor_count(from) == 0)
        return;
    const int64_t element = fm_base_dtype_bits(from->dtype) / 8;
    const int inner = from->ndim - 1;
    int64_t index[FM_TENSOR_NDIM_MAX] = {0};
    for (;;) {
        const char *row = from->data;
        for (int d = 0; d < inner; d++)
            row += index[d] * from->stride[d] * element;
        for (int64_t i = 0; i < (inner < 0 ? 1 : from->shape[inner]); i++)
            *to++ = element_f32(from->dtype, row + (inner < 0 ? 0 : i * from->stride[inner] * element));
        int d = inner - 1;
        while (d >= 0 && ++index[d] == from->shape[d])
            index[d--] = 0;
        if (d < 0)
            return;
    }
}

/** The tensor as float32 in a block of its own. */
static fm_status convert(const fm_tensor *from, const char *name, fm_tensor *out_tensor)
{
    size_t bytes = 0;
    FM_TRY(fm_base_tensor_bytes(FM_DTYPE_F32, from->ndim, from->shape, &bytes));
    float *values = fm_base_mem_aligned(bytes, FM_CACHE_LINE);
    if (!values)
        return fm_base_error_set(FM_ERR_NOMEM, "%s: no memory for %zu bytes", name, bytes);
    copy_f32(from, values);
    return fm_base_tensor_init(out_tensor, FM_DTYPE_F32, from->ndim, from->shape, values);
}

fm_status fm_base_npy_load_f32(const char *path, fm_tensor *out_tensor)
{
    fm_npy *file = NULL;
    FM_TRY(fm_base_npy_open(path, &file));
    fm_status status = convert(&file->tensor, path, out_tensor);
    fm_base_npy_close(file);
    return status;
}

/** The header that NumPy writes, behind the prefix; returns the bytes of both. */
static size_t make_header(const fm_tensor *tensor, const char *code, char out[HEADER_ROOM])
{
    memcpy(out, magic, MAGIC_BYTES);
    out[MAGIC_BYTES] = 1;
    out[MAGIC_BYTES + 1] = 0;
    int length = PREFIX_V1;
    length +=
        snprintf(out + length, HEADER_ROOM - (size_t)length,
                 "{'descr': '%c%s', 'fortran_order': False, 'shape': (", code[1] == '1' ? '|' : '<', code);
    for (int i = 0; i < tensor->ndim; i++)
        length += snprintf(out + length, HEADER_ROOM - (size_t)length, "%s%" PRId64, i ? ", " : "",
                           tensor->shape[i]);
    length += snprintf(out + length, HEADER_ROOM - (size_t)length, "%s), }", tensor->ndim == 1 ? "," : "");
    size_t padded = fm_round_up((size_t)length + 1, HEADER_ALIGNMENT);
    memset(out + length, ' ', padded - (size_t)length - 1);
    out[padded - 1] = '\n';
    fm_put_le16(out + MAGIC_BYTES + 2, (uint16_t)(padded - PREFIX_V1));
    return padded;
}

fm_status fm_base_npy_write(const char *path, const fm_tensor *tensor)
{
    size_t bytes = 0;
    fm_status status = fm_base_tensor_bytes(tensor->dtype, tensor->ndim, tensor->shape, &bytes);
    if (status < 0)
        return fm_base_error_prefix(status, "%s", path);
    if (!fm_base_tensor_is_contiguous(tensor))
        return fm_base_error_set(FM_ERR_ARG, "%s: the tensor is not contiguous", path);
    int index = 0;
    while (index < DTYPE_COUNT && dtypes[index].dtype != tensor->dtype)
        index++;
    if (index == DTYPE_COUNT)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "%s: NumPy has no dtype %s", path,
                                 fm_base_dtype_name(tensor->dtype));
    char header[HEADER_ROOM];
    size_t header_length = make_header(tensor, dtypes[index].code, header);
    fm_file_draft draft = {0};
    FM_TRY(fm_base_file_begin(&draft, path));
    status = fm_base_file_write(&draft, 0, header, header_length);
    if (status == FM_OK)
        status = fm_base_file_write(&draft, header_length, tensor->data, bytes);
    if (status == FM_OK)
        return fm_base_file_commit(&draft);
    fm_base_file_discard(&draft);
    return status;
}
