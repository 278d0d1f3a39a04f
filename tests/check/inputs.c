/* SPDX-License-Identifier: Apache-2.0
 * Random numbers and values for operands (inputs.h). */
#include "inputs.h"

#include <math.h>
#include <string.h>

/* SplitMix64: every 64-bit state is good, so hashed names can seed it. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t rng_next(rng *r)
{
    r->state += 0x9e3779b97f4a7c15u;
    return mix(r->state);
}

rng rng_of(const char *name, uint64_t seed)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char *c = name; *c != '\0'; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    return (rng){mix(hash) ^ mix(seed + 0x9e3779b97f4a7c15u)};
}

float rng_unit(rng *r)
{
    return (float)(rng_next(r) >> 40) * 0x1p-24f;
}

int64_t rng_below(rng *r, int64_t n)
{
    return (int64_t)(rng_next(r) % (uint64_t)n);
}

void rng_permutation(rng *r, int32_t *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t j = rng_below(r, i + 1);
        dst[i] = dst[j];
        dst[j] = (int32_t)i;
    }
}

size_t choose(size_t index, unsigned salt, size_t n)
{
    return (size_t)(mix(index * 0x10001u + salt + 1) % n);
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float draw_random(rng *r)
{
    return 2 * rng_unit(r) - 1;
}

static float draw_positive(rng *r)
{
    return 1 + rng_unit(r);
}

static float draw_large(rng *r)
{
    return ldexpf(draw_random(r), (int)rng_below(r, 51));
}

static float draw_tiny(rng *r)
{
    return from_bits((uint32_t)rng_next(r) & 0x807fffffu);
}

static float draw_zeros(rng *r)
{
    switch (rng_below(r, 8)) {
    case 0:
        return draw_random(r);
    case 1:
    case 2:
    case 3:
        return -0.0f;
    default:
        return 0.0f;
    }
}

static float draw_mixed(rng *r)
{
    float (*const draws[])(rng *) = {
        draw_random, draw_large, draw_tiny, draw_zeros};
    return draws[rng_below(r, 4)](r);
}

static float draw_special(rng *r)
{
    switch (rng_below(r, 24)) {
    case 0:
        return NAN;
    case 1:
        return INFINITY;
    case 2:
        return -INFINITY;
    default:
        return draw_random(r);
    }
}

static float draw_outlier(rng *r)
{
    const float size = rng_below(r, 512) == 0 ? 50.0f : 1.0f;
    return size * draw_random(r);
}

static float draw_bits(rng *r)
{
    return from_bits((uint32_t)rng_next(r));
}

static const struct {
    const char *name;
    float (*draw)(rng *r);
} kinds[VALUES_COUNT] = {
#define X(name, function, text) {text, draw_##function},
    VALUE_KIND_MAP(X)
#undef X
};

const char *value_kind_name(value_kind kind)
{
    return kinds[kind].name;
}

float draw_value(rng *r, value_kind kind)
{
    return kinds[kind].draw(r);
}

void fill_values(float *dst, int64_t n, rng *r, value_kind kind)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = draw_value(r, kind);
}
