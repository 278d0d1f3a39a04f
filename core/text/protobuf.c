/* SPDX-License-Identifier: Apache-2.0
 * In: untrusted bytes.  Out: one field after the other.  Invariant: a field
 * that was read lies within its message. */
#include "protobuf.h"

size_t qmi_message_bytes(qmi_message bytes)
{
    return (size_t)(bytes.end - bytes.next);
}

/* Ten bytes at most: more cannot be a 64-bit number. */
static bool read_varint(qmi_message *in, uint64_t *out)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && in->next != in->end; shift += 7) {
        uint8_t byte = *in->next++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

bool qmi_read_field(qmi_message *in, qmi_field *out)
{
    uint64_t tag = 0, n = 0;
    /* Field number 0 does not exist. */
    if (!read_varint(in, &tag) || tag > UINT32_MAX || tag < 8)
        return false;
    out->number = (uint32_t)tag >> 3;
    out->wire = (uint32_t)tag & 7;
    switch (out->wire) {
    case QMI_WIRE_VARINT:
        return read_varint(in, &out->value);
    case QMI_WIRE_64:
        n = 8;
        break;
    case QMI_WIRE_32:
        n = 4;
        break;
    case QMI_WIRE_BYTES:
        if (!read_varint(in, &n))
            return false;
        break;
    default:
        return false;
    }
    /* Before the pointer is made: n may be anything. */
    if (n > qmi_message_bytes(*in))
        return false;
    out->bytes = (qmi_message){in->next, in->next + n};
    in->next += n;
    return true;
}
