/* SPDX-License-Identifier: Apache-2.0
 * The kernels of routing, on the host. */
#include "kernels/route.cu"
