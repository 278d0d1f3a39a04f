/* SPDX-License-Identifier: Apache-2.0
 * GGUF files: every type of numbers against values of the package gguf, values
 * and tensors of a small file, and rules that a file may break. */
#include "scratch.h"

#include <stdlib.h>

#include "alloc.h"
#include "gguf.h"

/* ---- types ---- */

static void decodes_every_type(void **state)
{
    (void)state;
    FILE *file = fopen(QMOE_SOURCE_DIR "/tests/golden/gguf/types.bin", "rb");
    uint32_t head[2];
    int n_types = 0;
    assert_non_null(file);
    while (fread(head, sizeof head, 1, file) == 1) {
        const qmi_gguf_type *type = qmi_gguf_type_find(head[0]);
        static uint8_t src[4096];
        static float expected[2048], found[2048];
        const size_t n = head[1];
        assert_non_null(type);
        assert_true(n <= 2048 && n % type->n_elements == 0);
        const size_t n_bytes = n / type->n_elements * type->n_bytes;
        assert_int_equal(fread(src, 1, n_bytes, file), n_bytes);
        assert_int_equal(fread(expected, sizeof *expected, n, file), n);
        qmi_gguf_decode(type, found, src, n);
        if (memcmp(found, expected, n * sizeof *found) != 0)
            fail_msg("type %s", type->name);
        n_types++;
    }
    fclose(file);
    assert_int_equal(n_types, 14);
}

static void knows_types(void **state)
{
    (void)state;
    assert_null(qmi_gguf_type_find(31));
    assert_null(qmi_gguf_type_find(42));
    assert_null(qmi_gguf_type_find(UINT32_MAX));
    assert_string_equal(qmi_gguf_type_find(17)->name, "IQ2_XS");
    assert_int_equal(qmi_gguf_type_find(17)->n_bytes, 0);
}

/* ---- a small file ---- */

static uint8_t bytes[4096];
static size_t n_bytes;

static void put(const void *data, size_t n)
{
    assert_true(n_bytes + n <= sizeof bytes);
    memcpy(bytes + n_bytes, data, n);
    n_bytes += n;
}

static void put_u32(uint32_t value)
{
    put(&value, sizeof value);
}

static void put_u64(uint64_t value)
{
    put(&value, sizeof value);
}

static void put_text(const char *text)
{
    put_u64(strlen(text));
    put(text, strlen(text));
}

static void put_key(const char *key, uint32_t kind)
{
    put_text(key);
    put_u32(kind);
}

static void put_tensor(const char *name, uint32_t type, uint64_t n_rows,
    uint64_t n_cols, uint64_t offset)
{
    put_text(name);
    put_u32(2);
    put_u64(n_cols);
    put_u64(n_rows);
    put_u32(type);
    put_u64(offset);
}

static void put_padding(size_t alignment)
{
    while (n_bytes % alignment != 0)
        put("", 1);
}

/* A value of every kind, three tensors, alignment 16. */
static const char *write_file(void)
{
    const float single = 1e-5f;
    const double real = 0.1;
    n_bytes = 0;
    put("GGUF", 4);
    put_u32(3);
    put_u64(3); /* tensors */
    put_u64(14);
    put_key("u8", QMI_GGUF_U8), put("\xff", 1);
    put_key("i8", QMI_GGUF_I8), put("\xff", 1);
    put_key("u16", QMI_GGUF_U16), put("\xfe\xff", 2);
    put_key("i16", QMI_GGUF_I16), put("\xfe\xff", 2);
    put_key("general.alignment", QMI_GGUF_U32), put_u32(16);
    put_key("i32", QMI_GGUF_I32), put_u32((uint32_t)-3);
    put_key("f32", QMI_GGUF_F32), put(&single, 4);
    put_key("yes", QMI_GGUF_BOOL), put("\1", 1);
    put_key("text", QMI_GGUF_STRING), put_text("two\nlines");
    put_key("list", QMI_GGUF_ARRAY), put_u32(QMI_GGUF_STRING), put_u64(3);
    put_text("a"), put_text(""), put_text("\xc3\xa9");
    put_key("numbers", QMI_GGUF_ARRAY), put_u32(QMI_GGUF_I16), put_u64(2);
    put("\1\0\2\0", 4);
    put_key("u64", QMI_GGUF_U64), put_u64(UINT64_MAX);
    put_key("i64", QMI_GGUF_I64), put_u64((uint64_t)INT64_MIN);
    put_key("f64", QMI_GGUF_F64), put(&real, 8);
    put_tensor("later", 0, 1, 3, 48);
    put_tensor("blocks", 8, 1, 32, 0);
    put_tensor("wide", 20, 2, 64, 64);
    put_padding(16);
    for (int i = 0; i < 34; i++)
        put(i == 1 ? "\x3c" : "\2", 1); /* the scale is nearly 1 */
    put_padding(16);
    put("\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40", 12);
    put_padding(16);
    for (int i = 0; i < 4 * 18; i++)
        put("", 1);
    put_padding(16);
    return scratch_write("small.gguf", bytes, n_bytes);
}

static void reads_values(void **state)
{
    (void)state;
    qmi_error err = {0};
    qmi_tensor_file *file = NULL;
    static const struct {
        const char *key;
        int64_t value;
    } integers[] = {{"u8", 255}, {"i8", -1}, {"u16", 65534}, {"i16", -2},
        {"i32", -3}, {"i64", INT64_MIN}};
    int64_t integer = 0;
    double real = 0;
    bool truth = false;
    assert_int_equal(qmi_gguf_open(&file, write_file(), &err), QMOE_OK);
    assert_int_equal(qmi_gguf_count(file), 14);
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        const qmi_gguf_value *v = qmi_gguf_find(file, integers[i].key);
        assert_true(qmi_gguf_int(v, 0, &integer));
        assert_true(integer == integers[i].value);
        assert_false(qmi_gguf_real(v, 0, &real));
        assert_false(qmi_gguf_bool(v, 0, &truth));
    }
    /* No int64_t holds it. */
    assert_false(qmi_gguf_int(qmi_gguf_find(file, "u64"), 0, &integer));
    assert_true(qmi_gguf_real(qmi_gguf_find(file, "f32"), 0, &real));
    assert_true((float)real == 1e-5f);
    assert_true(qmi_gguf_real(qmi_gguf_find(file, "f64"), 0, &real));
    assert_true(real == 0.1);
    assert_true(qmi_gguf_bool(qmi_gguf_find(file, "yes"), 0, &truth));
    assert_true(truth);
    assert_null(qmi_gguf_find(file, "tex"));
    const qmi_gguf_value *numbers = qmi_gguf_find(file, "numbers");
    assert_true(numbers->is_array && numbers->n == 2);
    assert_true(qmi_gguf_int(numbers, 1, &integer) && integer == 2);
    qmi_tensor_file_close(file);
}

static void reads_texts(void **state)
{
    (void)state;
    qmi_error err = {0};
    qmi_tensor_file *file = NULL;
    static const char *const texts[] = {"a", "", "\xc3\xa9"};
    assert_int_equal(qmi_gguf_open(&file, write_file(), &err), QMOE_OK);
    const qmi_gguf_value *v = qmi_gguf_find(file, "text");
    const uint8_t *at = v->data;
    qmi_gguf_text text = qmi_gguf_next_text(&at);
    assert_false(v->is_array);
    assert_int_equal(text.n, 9);
    assert_memory_equal(text.bytes, "two\nlines", 9);
    v = qmi_gguf_find(file, "list");
    assert_true(v->is_array && v->n == 3);
    at = v->data;
    for (int i = 0; i < 3; i++) {
        text = qmi_gguf_next_text(&at);
        assert_int_equal(text.n, strlen(texts[i]));
        assert_memory_equal(text.bytes, texts[i], text.n);
    }
    qmi_tensor_file_close(file);
}

static void reads_tensors(void **state)
{
    (void)state;
    qmi_error err = {0};
    qmi_tensor_file *file = NULL;
    float values[3];
    assert_int_equal(qmi_gguf_open(&file, write_file(), &err), QMOE_OK);
    assert_int_equal(qmi_tensor_file_count(file), 3);
    /* In order of their data. */
    const qmi_tensor *t = qmi_tensor_file_at(file, 0);
    assert_string_equal(t->name, "blocks");
    assert_string_equal(qmi_gguf_type_of(file, t)->name, "Q8_0");
    assert_true(t->dtype == QMI_U8 && t->rank == 2);
    assert_true(t->shape[0] == 1 && t->shape[1] == 34 && t->n_bytes == 34);
    t = qmi_tensor_file_find(file, "later");
    assert_true(t->dtype == QMI_F32 && t->shape[0] == 1 && t->shape[1] == 3);
    assert_int_equal(
        qmi_tensor_file_fetch(file, t->data, t->n_bytes, &err), QMOE_OK);
    memcpy(values, t->data, sizeof values);
    assert_true(values[0] == 1 && values[1] == 2 && values[2] == 3);
    t = qmi_tensor_file_find(file, "wide");
    assert_true(t->shape[0] == 2 && t->shape[1] == 36 && t->n_bytes == 72);
    assert_ptr_equal(t->data, qmi_tensor_file_at(file, 0)->data + 64);
    qmi_tensor_file_close(file);
}

/* ---- damage ---- */

/* Every cut of the file is refused, and so are bytes behind it. */
static void refuses_cuts(void **state)
{
    (void)state;
    write_file();
    const size_t n = n_bytes;
    for (size_t cut = 0; cut < n; cut++) {
        qmi_error err = {0};
        qmi_tensor_file *file = NULL;
        const char *path = scratch_write("cut.gguf", bytes, cut);
        const qmoe_status status = qmi_gguf_open(&file, path, &err);
        /* Only the padding at the end may be missing. */
        if (cut >= n - 8) {
            assert_int_equal(status, QMOE_OK);
            qmi_tensor_file_close(file);
            continue;
        }
        assert_error(status, QMOE_E_FORMAT, err.text, path);
        assert_null(file);
    }
    qmi_error err = {0};
    qmi_tensor_file *file = NULL;
    put("x", 1);
    assert_error(
        qmi_gguf_open(&file, scratch_write("cut.gguf", bytes, n_bytes), &err),
        QMOE_E_FORMAT, err.text, "9 extra bytes");
}

/* No single byte of the header makes the reader fail in another way. */
static void survives_flips(void **state)
{
    (void)state;
    write_file();
    const size_t n = n_bytes;
    int n_refused = 0;
    for (size_t i = 0; i < 600 && i < n; i++)
        for (int bit = 0; bit < 8; bit += 7) {
            qmi_error err = {0};
            qmi_tensor_file *file = NULL;
            bytes[i] ^= (uint8_t)(1 << bit);
            const char *path = scratch_write("flip.gguf", bytes, n);
            const qmoe_status status = qmi_gguf_open(&file, path, &err);
            n_refused += status != QMOE_OK;
            assert_true((status == QMOE_OK) == (file != NULL));
            assert_true(status == QMOE_OK || err.text[0] != '\0');
            qmi_tensor_file_close(file);
            bytes[i] ^= (uint8_t)(1 << bit);
        }
    assert_true(n_refused > 100);
}

static void survives_lack_of_memory(void **state)
{
    (void)state;
    const char *path = write_file();
    for (uint64_t n = 1;; n++) {
        qmi_error err = {0};
        qmi_tensor_file *file = NULL;
        qmi_alloc_fail_after(n);
        const qmoe_status status = qmi_gguf_open(&file, path, &err);
        qmi_alloc_fail_after(0);
        qmi_tensor_file_close(file);
        if (status == QMOE_OK)
            break;
        assert_int_equal(status, QMOE_E_NOMEM);
        assert_true(n < 50);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_every_type),
        cmocka_unit_test(knows_types),
        cmocka_unit_test(reads_values),
        cmocka_unit_test(reads_texts),
        cmocka_unit_test(reads_tensors),
        cmocka_unit_test(refuses_cuts),
        cmocka_unit_test(survives_flips),
        cmocka_unit_test(survives_lack_of_memory),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
