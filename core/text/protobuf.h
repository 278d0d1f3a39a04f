/* SPDX-License-Identifier: Apache-2.0
 * The wire format of protocol buffers, as SentencePiece's files have it. */
#ifndef QMI_PROTOBUF_H
#define QMI_PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    QMI_WIRE_VARINT = 0,
    QMI_WIRE_64 = 1,
    QMI_WIRE_BYTES = 2,
    QMI_WIRE_32 = 5
};

/* What is left of a message. */
typedef struct qmi_message {
    const uint8_t *next, *end;
} qmi_message;

typedef struct qmi_field {
    uint32_t number, wire;
    uint64_t value;    /* of QMI_WIRE_VARINT */
    qmi_message bytes; /* of the other kinds */
} qmi_field;

size_t qmi_message_bytes(qmi_message bytes);
/* Takes the next field of a message that is not at its end.  False: it breaks
 * the wire format.  Groups (obsolete, never written) are refused with the
 * rest. */
bool qmi_read_field(qmi_message *in, qmi_field *out);

#endif
