/* SPDX-License-Identifier: Apache-2.0
 * Shared by all kernels.  OpenCL C 1.2, float32 only, no extensions.  Every
 * operand of an operation is a buffer and a first element: operands of one
 * operation may lie in one buffer, and sub-buffers need a coarse alignment.
 *
 * -D parameters: TT tokens that a product handles together (1 or a vector
 * width), CPU 1 for devices whose work-items are threads of a processor. */
#define CAT2(a, b) a##b
#define CAT(a, b) CAT2(a, b)

#define BF16(bits) as_float((uint)(bits) << 16)

/* ---- activations: the numbers of qmi_act ---- */

#define ACT_RELU 1
#define ACT_SILU 2
#define ACT_SIGMOID 3

/* A function for one value, or for each of a vector. */
#define DEFINE_ACTIVATE(name, type)                                            \
    type name(type x, int act)                                                 \
    {                                                                          \
        if (act == ACT_RELU)                                                   \
            return x < 0.0f ? (type)0.0f : x;                                  \
        if (act == ACT_SILU)                                                   \
            return x / (1.0f + exp(-x));                                       \
        if (act == ACT_SIGMOID)                                                \
            return 1.0f / (1.0f + exp(-x));                                    \
        return x;                                                              \
    }
DEFINE_ACTIVATE(activate, float)

/* ---- the sign hash: core/formats/rotation_hash.h lies before this ---- */

uint mix_bits(uint x)
{
    QMI_ROTATION_MIX(x);
    return x;
}

float rotation_sign(uint seed, int column)
{
    uint mixed = mix_bits(seed + QMI_ROTATION_SEED);
    return mix_bits(mixed ^ (uint)column) >> 31 != 0 ? -1.0f : 1.0f;
}

/* 1 / sqrt(m) for a power of two. */
float hadamard_norm(int m)
{
    float norm = 1.0f;
    for (; m >= 4; m /= 4)
        norm *= 0.5f;
    return m == 2 ? norm * 0x1.6a09e6p-1f : norm;
}
