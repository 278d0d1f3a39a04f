/* SPDX-License-Identifier: Apache-2.0
 * For inner loops of fixed bounds.  Sanitizers check each element of them and
 * keep compilers from making vectors: that was four fifths of a compression's
 * time under one. */
#ifndef QMI_UNCHECKED_H
#define QMI_UNCHECKED_H

#define QMI_UNCHECKED                                                          \
    __attribute__((no_sanitize("address", "thread", "undefined")))

#endif
