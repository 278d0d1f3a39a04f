/* SPDX-License-Identifier: Apache-2.0
 * Every rule of the safetensors format as a vector that must be refused, and
 * what the format allows as vectors that must open. */
#include "scratch.h"

#include <stdlib.h>
#include <unistd.h>

#include "alloc.h"
#include "hash.h"
#include "safetensors.h"

#define TEXT(literal) literal, sizeof literal - 1

/* A file of header length, header and data, as scratch file `name`. */
static const char *write_file(const char *name, const char *header,
    size_t n_header, const char *data, size_t n_data)
{
    size_t n = 8 + n_header + n_data;
    uint8_t *bytes = calloc(n, 1);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)n_header >> (8 * i));
    memcpy(bytes + 8, header, n_header);
    if (data != NULL)
        memcpy(bytes + 8 + n_header, data, n_data);
    const char *path = scratch_write(name, bytes, n);
    free(bytes);
    return path;
}

static qmi_tensor_file *open_good(const char *path)
{
    qmi_error err = {.text = ""};
    qmi_tensor_file *file = NULL;
    if (qmi_safetensors_open(&file, path, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    assert_non_null(file);
    return file;
}

static void expect_refused(const char *path, const char *name, const char *part)
{
    qmi_error err = {.text = ""};
    qmi_tensor_file *file = (qmi_tensor_file *)&err;
    qmoe_status status = qmi_safetensors_open(&file, path, &err);
    if (status == QMOE_OK)
        fail_msg("accepted: %s", name);
    if (strstr(err.text, part) == NULL)
        fail_msg("%s: '%s' is not in: %s", name, part, err.text);
    assert_error(status, QMOE_E_FORMAT, err.text, path);
    assert_null(file);
    assert_int_equal(qmi_safetensors_open(&file, path, NULL), status);
}

/* ---- must fail ---- */

static void refuses_bad_files(void **state)
{
    (void)state;
    const struct {
        const char *name;
        const char *bytes;
        size_t n;
        const char *part;
    } bad[] = {
        {"empty", TEXT(""), "too few"},
        {"seven bytes", TEXT("\0\0\0\0\0\0\0"), "too few"},
        {"length 2^64 - 196", TEXT("\x3c\xff\xff\xff\xff\xff\xff\xff"),
            "above the limit of 100000000"},
        {"length 100000001", TEXT("\x01\xe1\xf5\x05\0\0\0\0{}"),
            "above the limit"},
        {"length 100000000 of 10", TEXT("\x00\xe1\xf5\x05\0\0\0\0{}"),
            "beyond the file"},
        {"length 60, no header", TEXT("\x3c\0\0\0\0\0\0\0"),
            "beyond the file of 8 bytes"},
        {"length 3 of 2", TEXT("\3\0\0\0\0\0\0\0{}"), "beyond the file"},
        {"length 0", TEXT("\0\0\0\0\0\0\0\0"), "valid JSON object"},
        {"length 1 of 2", TEXT("\1\0\0\0\0\0\0\0{}"), "valid JSON object"},
        {"byte 0xff", TEXT("\1\0\0\0\0\0\0\0\xff"), "not UTF-8"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refused(
            scratch_write("st-bad.safetensors", bad[i].bytes, bad[i].n),
            bad[i].name, bad[i].part);
}

static const struct {
    const char *name, *header;
    size_t n_header, n_data;
    const char *part;
} bad_headers[] = {
    /* syntax */
    {"open brace", TEXT("{"), 0, "valid JSON object near byte 9"},
    {"array", TEXT("[]"), 0, "valid JSON object"},
    {"null", TEXT("null"), 0, "valid JSON object"},
    {"two objects", TEXT("{}{}"), 0, "valid JSON object"},
    {"padding of NUL", TEXT("{}\0\0"), 0, "valid JSON object"},
    {"leading NUL", TEXT("\0{}"), 0, "valid JSON object"},
    {"byte order mark", TEXT("\xef\xbb\xbf{}"), 0, "valid JSON object"},
    {"lone comma", TEXT("{,}"), 0, "valid JSON object"},
    {"trailing comma",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
             "\"data_offsets\":[0,1]},}"),
        1, "valid JSON object"},
    {"no colon", TEXT("{\"a\"{}}"), 0, "valid JSON object"},
    {"number as name", TEXT("{1:{}}"), 0, "valid JSON object"},
    {"NUL in a name",
        TEXT("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],"
             "\"data_offsets\":[0,1]}}"),
        1, "valid JSON object"},
    {"bad UTF-8 in a name",
        TEXT("{\"\xc3\x28\":{\"dtype\":\"U8\",\"shape\":[1],"
             "\"data_offsets\":[0,1]}}"),
        1, "not UTF-8"},
    {"cut in an entry", TEXT("{\"a\":{\"dtype\":\"U8\""), 1,
        "valid JSON object"},
    {"cut in the shape", TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1"), 1,
        "valid JSON object"},
    /* entries */
    {"entry is a number", TEXT("{\"a\":5}"), 0,
        "tensor 'a': the header entry is not an object"},
    {"entry is an array", TEXT("{\"a\":[]}"), 0, "not an object"},
    {"empty entry", TEXT("{\"a\":{}}"), 0, "tensor 'a': dtype is missing"},
    {"no shape", TEXT("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}"), 1,
        "tensor 'a': shape is missing"},
    {"no offsets", TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}"), 1,
        "tensor 'a': data_offsets is missing"},
    {"extra key",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"x\":1,"
             "\"data_offsets\":[0,1]}}"),
        1, "tensor 'a': unknown key 'x'"},
    {"key in other case",
        TEXT("{\"a\":{\"DTYPE\":\"U8\",\"shape\":[1],"
             "\"data_offsets\":[0,1]}}"),
        1, "unknown key 'DTYPE'"},
    {"duplicate key",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],"
             "\"data_offsets\":[0,1]}}"),
        1, "tensor 'a': duplicate key 'dtype'"},
    {"duplicate name",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
             "\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],"
             "\"data_offsets\":[1,2]}}"),
        2, "tensor 'a': duplicate name"},
    /* dtype */
    {"unknown dtype",
        TEXT("{\"a\":{\"dtype\":\"F33\",\"shape\":[1],"
             "\"data_offsets\":[0,1]}}"),
        1, "tensor 'a': unknown dtype 'F33'"},
    {"dtype in other case",
        TEXT("{\"a\":{\"dtype\":\"u8\",\"shape\":[1],"
             "\"data_offsets\":[0,1]}}"),
        1, "unknown dtype 'u8'"},
    {"dtype is a number",
        TEXT("{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}"), 1,
        "tensor 'a': dtype is not a string"},
    /* shape */
    {"shape is a number",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}"),
        1, "tensor 'a': shape is not an array"},
    {"rank 9",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],"
             "\"data_offsets\":[0,1]}}"),
        1, "tensor 'a': shape has more than 8"},
    {"negative size",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],"
             "\"data_offsets\":[0,1]}}"),
        1, "non-negative integer below 2^53"},
    {"fraction",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1.5],"
             "\"data_offsets\":[0,1]}}"),
        1, "non-negative integer below 2^53"},
    {"size as text",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[\"1\"],"
             "\"data_offsets\":[0,1]}}"),
        1, "non-negative integer below 2^53"},
    {"nested shape",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[[1]],"
             "\"data_offsets\":[0,1]}}"),
        1, "non-negative integer below 2^53"},
    {"leading zero",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[01],"
             "\"data_offsets\":[0,1]}}"),
        1, "non-negative integer below 2^53"},
    {"2^53",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[0,9007199254740992],"
             "\"data_offsets\":[0,0]}}"),
        0, "non-negative integer below 2^53"},
    {"[2, 2^64 - 2]",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[2,18446744073709551614],"
             "\"data_offsets\":[0,4]}}"),
        4, "non-negative integer below 2^53"},
    {"element count overflows",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],"
             "\"data_offsets\":[0,0]}}"),
        0, "tensor 'a': the element count of its shape overflows"},
    {"byte count overflows",
        TEXT("{\"a\":{\"dtype\":\"F64\",\"shape\":[4294967296,1073741824],"
             "\"data_offsets\":[0,0]}}"),
        0, "tensor 'a': the byte count of its shape overflows"},
    {"odd count of F4",
        TEXT("{\"a\":{\"dtype\":\"F4\",\"shape\":[3],"
             "\"data_offsets\":[0,2]}}"),
        2, "tensor 'a': 3 elements of F4 are not a whole number of bytes"},
    {"two of F6",
        TEXT("{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[2],"
             "\"data_offsets\":[0,2]}}"),
        2, "not a whole number of bytes"},
    /* offsets */
    {"offsets are a number",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":1}}"), 1,
        "tensor 'a': data_offsets is not an array"},
    {"one offset",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}"),
        1, "tensor 'a': data_offsets is not a pair"},
    {"three offsets",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
             "\"data_offsets\":[0,1,2]}}"),
        1, "data_offsets has more than 2"},
    {"end before begin",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
             "\"data_offsets\":[1,0]}}"),
        1, "tensor 'a': data_offsets [1, 0] end before they begin"},
    {"size is not the shape's",
        TEXT("{\"a\":{\"dtype\":\"I32\",\"shape\":[2,2],"
             "\"data_offsets\":[0,4]}}"),
        4, "tensor 'a': data_offsets [0, 4] are not the size of its shape, 16"},
    {"two bytes missing",
        TEXT("{\"a\":{\"dtype\":\"I32\",\"shape\":[2,2],"
             "\"data_offsets\":[0,16]}}"),
        14, "tensor 'a': data_offsets [0, 16] end beyond the file"},
    {"empty tensor beyond the file",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],"
             "\"data_offsets\":[7,7]}}"),
        0, "end beyond the file"},
    {"extra bytes",
        TEXT("{\"a\":{\"dtype\":\"I32\",\"shape\":[2,2],"
             "\"data_offsets\":[0,16]}}"),
        17, "1 extra bytes after the data"},
    {"data without tensors", TEXT("{}"), 1, "1 extra bytes"},
    /* tiling */
    {"does not begin at 0",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
             "\"data_offsets\":[1,2]}}"),
        2, "tensor 'a': a gap of 1 bytes"},
    {"gap",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]},"
             "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"),
        4, "tensor 'a': a gap of 2 bytes"},
    {"overlap",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
             "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}"),
        4, "tensor 'b': its data overlap those of tensor 'a'"},
    {"shared range",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
             "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}"),
        2, "tensor 'b': data_offsets [0, 2] overlap another tensor"},
    {"empty tensor inside another",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
             "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}"),
        4, "tensor 'b': its data overlap those of tensor 'a'"},
    {"empty tensor after a gap",
        TEXT("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
             "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}"),
        2, "tensor 'b': a gap of 1 bytes"},
    /* __metadata__ */
    {"metadata is a string", TEXT("{\"__metadata__\":\"x\"}"), 0,
        "__metadata__ is not a map of strings"},
    {"metadata is null", TEXT("{\"__metadata__\":null}"), 0,
        "__metadata__ is not a map of strings"},
    {"metadata of numbers", TEXT("{\"__metadata__\":{\"a\":1}}"), 0,
        "__metadata__ is not a map of strings: value of 'a'"},
    {"metadata of objects", TEXT("{\"__metadata__\":{\"a\":{}}}"), 0,
        "__metadata__ is not a map of strings"},
    {"duplicate metadata key",
        TEXT("{\"__metadata__\":{\"a\":\"1\",\"b\":\"\",\"a\":\"1\"}}"), 0,
        "duplicate key 'a' in __metadata__"},
    {"two metadata", TEXT("{\"__metadata__\":{},\"__metadata__\":{}}"), 0,
        "duplicate name '__metadata__'"},
};

static void refuses_bad_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++)
        expect_refused(
            write_file("st-bad.safetensors", bad_headers[i].header,
                bad_headers[i].n_header, NULL, bad_headers[i].n_data),
            bad_headers[i].name, bad_headers[i].part);
}

static void names_an_absent_file(void **state)
{
    (void)state;
    qmi_error err = {0};
    qmi_tensor_file *file = NULL;
    qmoe_status status =
        qmi_safetensors_open(&file, scratch_path("st-absent"), &err);
    assert_error(status, QMOE_E_NOT_FOUND, err.text, "st-absent");
}

/* Any truncation of a good file is refused. */
static void refuses_every_truncation(void **state)
{
    (void)state;
    const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],"
                          "\"data_offsets\":[0,3]}}";
    size_t n = 8 + sizeof header - 1 + 3;
    const char *path = write_file("st-cut.safetensors", TEXT(header), "abc", 3);
    qmi_tensor_file_close(open_good(path));
    while (n-- != 0) {
        qmi_tensor_file *file = NULL;
        assert_int_equal(truncate(path, (off_t)n), 0);
        assert_int_equal(
            qmi_safetensors_open(&file, path, NULL), QMOE_E_FORMAT);
    }
}

/* ---- hostile headers ---- */

typedef struct text {
    char *data;
    size_t n, capacity;
} text;

static text new_text(size_t capacity)
{
    text t = {malloc(capacity), 0, capacity};
    assert_non_null(t.data);
    return t;
}

#define append(t, ...)                                                         \
    ((t)->n += (size_t)snprintf(                                               \
         (t)->data + (t)->n, (t)->capacity - (t)->n, __VA_ARGS__))

static void refuses_many_names_of_one_range(void **state)
{
    (void)state;
    text t = new_text(8000000);
    append(&t, "{");
    for (int i = 0; i < 100000; i++)
        append(&t,
            "\"n%d\":{\"dtype\":\"U8\",\"shape\":[4],"
            "\"data_offsets\":[0,4]},",
            i);
    t.data[t.n - 1] = '}';
    /* Few allocations: refused at the second entry. */
    const char *path =
        write_file("st-many.safetensors", t.data, t.n, "abcd", 4);
    qmi_tensor_file *file = NULL;
    qmi_error err = {0};
    qmi_alloc_fail_after(20);
    qmoe_status status = qmi_safetensors_open(&file, path, &err);
    qmi_alloc_fail_after(0);
    assert_error(status, QMOE_E_FORMAT, err.text, "tensor 'n1': ");
    expect_refused(path, "many names", "overlap another tensor");
    free(t.data);
    unlink(path);
}

static void refuses_depth_and_bulk(void **state)
{
    (void)state;
    const size_t n = 4000000;
    const char *const starts[] = {
        "{\"a\":", "{\"a\":{\"shape\":[", "{\"__metadata__\":", ""};
    char *bytes = malloc(n);
    assert_non_null(bytes);
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        for (int kind = 0; kind < 3; kind++) {
            memset(bytes, kind == 0 ? '[' : '{', n);
            for (size_t j = 0; kind == 2 && j < n; j++)
                bytes[j] = "0,"[j % 2];
            memcpy(bytes, starts[i], strlen(starts[i]));
            const char *path =
                write_file("st-deep.safetensors", bytes, n, NULL, 0);
            expect_refused(path, starts[i], "");
        }
    }
    free(bytes);
    unlink(scratch_path("st-deep.safetensors"));
}

/* ---- must open ---- */

static void opens_empty_headers(void **state)
{
    (void)state;
    const char *const good[] = {"{}", "{}      ", "  {}", "\t\r\n{ } \n",
        "{\"__metadata__\":{}}", "{ \"__metadata__\" : { } }"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const char *path = write_file(
            "st-good.safetensors", good[i], strlen(good[i]), NULL, 0);
        qmi_tensor_file *file = open_good(path);
        assert_int_equal(qmi_tensor_file_count(file), 0);
        assert_null(qmi_tensor_file_find(file, "a"));
        assert_null(qmi_tensor_file_metadata(file, "a"));
        assert_string_equal(qmi_tensor_file_path(file), path);
        assert_int_equal(qmi_tensor_file_bytes(file), 8 + strlen(good[i]));
        qmi_tensor_file_close(file);
    }
    qmi_tensor_file_close(NULL);
}

static void opens_tensors(void **state)
{
    (void)state;
    /* Header order is not file order; spaces everywhere. */
    const char header[] =
        " { \"b\" : { \"data_offsets\" : [ 2 , 10 ] , \"shape\" : [ 2 , 1 ] ,"
        " \"dtype\" : \"F32\" } , \"__metadata__\" : { \"z\" : \"1\" , "
        "\"f\\n\" : \"\xc3\xa4\\u00e4\" } , \"s\\\"\xe2\x82\xac\" : {\"dtype\":"
        "\"BF16\",\"shape\":[],\"data_offsets\":[0,2]},"
        "\"f4\":{\"dtype\":\"F4\",\"shape\":[1,2],\"data_offsets\":[10,11]}, "
        "\"r8\":{\"dtype\":\"BOOL\",\"shape\":[1,1,1,1,1,1,1,2e0],"
        "\"data_offsets\":[11,13]},"
        "\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[13,13]}}  ";
    const char *path =
        write_file("st-good.safetensors", TEXT(header), "ABCDEFGHIJKLM", 13);
    qmi_tensor_file *file = open_good(path);
    assert_int_equal(qmi_tensor_file_count(file), 5);
    const qmi_tensor *t = qmi_tensor_file_at(file, 0);
    assert_string_equal(t->name, "s\"\xe2\x82\xac");
    assert_int_equal(t->dtype, QMI_BF16);
    assert_int_equal(t->rank, 0);
    assert_int_equal(t->n_bytes, 2);
    assert_memory_equal(t->data, "AB", 2);
    assert_ptr_equal(t, qmi_tensor_file_find(file, "s\"\xe2\x82\xac"));
    t = qmi_tensor_file_find(file, "b");
    assert_non_null(t);
    assert_ptr_equal(t, qmi_tensor_file_at(file, 1));
    assert_int_equal(t->dtype, QMI_F32);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 1);
    assert_memory_equal(t->data, "CDEFGHIJ", 8);
    t = qmi_tensor_file_find(file, "f4");
    assert_non_null(t);
    assert_int_equal(t->n_bytes, 1);
    t = qmi_tensor_file_find(file, "r8");
    assert_non_null(t);
    assert_int_equal(t->rank, 8);
    assert_int_equal(t->shape[7], 2);
    t = qmi_tensor_file_find(file, "");
    assert_non_null(t);
    assert_int_equal(t->n_bytes, 0);
    assert_null(qmi_tensor_file_find(file, "a"));
    assert_null(qmi_tensor_file_find(file, "zz"));
    assert_string_equal(qmi_tensor_file_metadata(file, "z"), "1");
    assert_string_equal(
        qmi_tensor_file_metadata(file, "f\n"), "\xc3\xa4\xc3\xa4");
    assert_null(qmi_tensor_file_metadata(file, "b"));
    qmi_tensor_file_set_index(file, 3);
    assert_int_equal(qmi_tensor_file_at(file, 4)->file, 3);
    qmi_tensor_file_close(file);
}

static void opens_every_dtype(void **state)
{
    (void)state;
    for (int d = 0; d < QMI_DTYPE_COUNT; d++) {
        char header[256];
        const char *name = qmi_dtype_name((qmi_dtype)d);
        unsigned n = qmi_dtype_bits((qmi_dtype)d);
        snprintf(header, sizeof header,
            "{\"a\":{\"dtype\":\"%s\",\"shape\":[8],\"data_offsets\":[0,%u]}}",
            name, n);
        qmi_tensor_file *file = open_good(
            write_file("st-good.safetensors", header, strlen(header), NULL, n));
        assert_int_equal(qmi_tensor_file_at(file, 0)->dtype, d);
        assert_int_equal(qmi_tensor_file_at(file, 0)->n_bytes, n);
        qmi_tensor_file_close(file);
    }
}

/* Empty tensors keep the order of the header, before the tensor that begins
 * where they lie. */
static void orders_empty_tensors(void **state)
{
    (void)state;
    text t = new_text(100000);
    append(&t, "{\"full\":{\"dtype\":\"U8\",\"shape\":[1],"
               "\"data_offsets\":[0,1]},\"big\":{\"dtype\":\"F32\",\"shape\":"
               "[2,0,4503599627370496],\"data_offsets\":[0,0]}");
    for (int i = 0; i < 300; i++)
        append(&t,
            ",\"e%d\":{\"dtype\":\"U8\",\"shape\":[0,%d],"
            "\"data_offsets\":[%d,%d]}",
            (i * 7) % 300, i, i % 2, i % 2);
    append(&t, "}");
    const char *path = write_file("st-good.safetensors", t.data, t.n, "x", 1);
    qmi_tensor_file *file = open_good(path);
    assert_int_equal(qmi_tensor_file_count(file), 302);
    assert_string_equal(qmi_tensor_file_at(file, 0)->name, "big");
    assert_string_equal(qmi_tensor_file_at(file, 151)->name, "full");
    for (int i = 0; i < 300; i++) {
        char name[16];
        size_t at = i % 2 == 0 ? 1 + (size_t)i / 2 : 152 + (size_t)i / 2;
        snprintf(name, sizeof name, "e%d", (i * 7) % 300);
        assert_string_equal(qmi_tensor_file_at(file, at)->name, name);
        assert_ptr_equal(
            qmi_tensor_file_find(file, name), qmi_tensor_file_at(file, at));
    }
    qmi_tensor_file_close(file);
    free(t.data);
}

static void opens_many_tensors(void **state)
{
    (void)state;
    enum { N = 20000 };
    text t = new_text(N * 90);
    uint8_t *data = malloc(N);
    assert_non_null(data);
    append(&t, "{");
    for (int i = 0; i < N; i++) {
        int at = (int)((int64_t)i * 7919 % N);
        data[at] = (uint8_t)(i % 251);
        append(&t,
            "\"block.%d.weight\":{\"dtype\":\"U8\",\"shape\":[1],"
            "\"data_offsets\":[%d,%d]},",
            i, at, at + 1);
    }
    t.data[t.n - 1] = '}';
    const char *path =
        write_file("st-good.safetensors", t.data, t.n, (char *)data, N);
    qmi_tensor_file *file = open_good(path);
    assert_int_equal(qmi_tensor_file_count(file), N);
    for (int i = 0; i < N; i++) {
        char name[32];
        snprintf(name, sizeof name, "block.%d.weight", i);
        const qmi_tensor *tensor = qmi_tensor_file_find(file, name);
        assert_non_null(tensor);
        assert_int_equal(tensor->data[0], i % 251);
        if (i != 0)
            assert_ptr_equal(qmi_tensor_file_at(file, (size_t)i)->data,
                qmi_tensor_file_at(file, (size_t)i - 1)->data + 1);
    }
    qmi_tensor_file_close(file);
    free(data);
    free(t.data);
    unlink(path);
}

/* The hash covers length and text as stored, padding included. */
static void hashes_the_header(void **state)
{
    (void)state;
    qmi_tensor_file *file =
        open_good(write_file("st-good.safetensors", TEXT("{} "), NULL, 0));
    assert_true(qmi_tensor_file_header_hash(file) ==
                qmi_hash64(TEXT("\3\0\0\0\0\0\0\0{} ")));
    qmi_tensor_file_close(file);
}

static void opens_the_example_model(void **state)
{
    (void)state;
    qmi_tensor_file *file =
        open_good(QMOE_SOURCE_DIR "/models/switch-mini/model.safetensors");
    const qmi_tensor *t = qmi_tensor_file_find(file, "shared.weight");
    assert_non_null(t);
    assert_int_equal(t->rank, 2);
    assert_true(qmi_tensor_file_count(file) > 100);
    qmi_tensor_file_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_bad_files),
        cmocka_unit_test(refuses_bad_headers),
        cmocka_unit_test(names_an_absent_file),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(refuses_many_names_of_one_range),
        cmocka_unit_test(refuses_depth_and_bulk),
        cmocka_unit_test(opens_empty_headers),
        cmocka_unit_test(opens_tensors),
        cmocka_unit_test(opens_every_dtype),
        cmocka_unit_test(orders_empty_tensors),
        cmocka_unit_test(opens_many_tensors),
        cmocka_unit_test(hashes_the_header),
        cmocka_unit_test(opens_the_example_model),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
