/* SPDX-License-Identifier: Apache-2.0
 * Rows of keys and values in the types of qmi_kv_type.  A row is whole words of
 * 4 bytes: floats; halves, two in a word; or blocks of 32 values, whose scale
 * is one word and whose codes are eight. */
#define KV_F32 0
#define KV_F16 1
#define KV_Q8 2
#define BLOCK 32 /* QMI_KV_BLOCK */
#define BLOCK_WORDS 9

/* a / b as IEEE rounds it: devices may be off by a few units, and codes of q8
 * must be the same everywhere.  For finite quotients. */
float exact_quotient(float a, float b)
{
    const float q = a / b;
    return fma(fma(-q, b, a), 1.0f / b, q);
}

/* Word `w` of a q8 row of `n` values: the scale of its block, or four codes.
 * Each work-item looks for its block's largest value: neighbours read the same
 * 32 values, so no work-item waits for another. */
uint q8_word(__global const float *x, int n, int w)
{
    const int begin = w / BLOCK_WORDS * BLOCK, place = w % BLOCK_WORDS;
    const int end = min(begin + BLOCK, n);
    float largest = 0;
    for (int c = begin; c < end; c++)
        largest = fmax(largest, fabs(x[c]));
    const float scale = exact_quotient(largest, 127.0f);
    if (place == 0)
        return as_uint(scale);
    uint word = 0;
    for (int i = 0; i < 4; i++) {
        const int c = begin + 4 * (place - 1) + i;
        const int code = c < end && scale > 0.0f
                             ? (int)rint(exact_quotient(x[c], scale))
                             : 0;
        word |= ((uint)code & 255) << (8 * i);
    }
    return word;
}

/* A work-item per word of a row. */
__kernel void kv_store(__global uint *cache, ulong cache_at,
    __global const uint *src, ulong src_at, __global const int *rows,
    ulong rows_at, int n_cols, int n_words, int type)
{
    const int w = (int)get_global_id(0), t = (int)get_global_id(1);
    if (w >= n_words)
        return;
    cache += cache_at + (ulong)rows[rows_at + t] * n_words + w;
    src += src_at + (ulong)t * n_cols;
    if (type == KV_F32) {
        *cache = src[w];
    } else if (type == KV_Q8) {
        *cache = q8_word((__global const float *)src, n_cols, w);
    } else {
        __global const float *x = (__global const float *)src + 2 * w;
        const float2 pair = (float2)(x[0], 2 * w + 1 < n_cols ? x[1] : 0.0f);
        vstore_half2_rte(pair, 0, (__global half *)cache);
    }
}

float load_value(__global const uint *row, int type, int c)
{
    if (type == KV_F32)
        return as_float(row[c]);
    if (type == KV_F16)
        return vload_half(c, (__global const half *)row);
    __global const uint *block = row + c / BLOCK * BLOCK_WORDS;
    return as_float(block[0]) *
           (float)((__global const char *)(block + 1))[c % BLOCK];
}

/* Values [c, c + 16), which in q8 lie in one block. */
float16 load_values(__global const uint *row, int type, int c)
{
    if (type == KV_F32)
        return vload16(0, (__global const float *)row + c);
    if (type == KV_F16)
        return vload_half16(0, (__global const half *)row + c);
    __global const uint *block = row + c / BLOCK * BLOCK_WORDS;
    return as_float(block[0]) *
           convert_float16(
               vload16(0, (__global const char *)(block + 1) + c % BLOCK));
}
