/* SPDX-License-Identifier: Apache-2.0
 * In: the bytes of tokens.  Out: valid UTF-8 without NUL, which would end the
 * text.  Invariant: after qmi_decode_end the texts given out, one after the
 * other, do not depend on how often the caller looked: whole texts and streams
 * are decoded by the same calls.
 *
 * Bytes that are no UTF-8 become U+FFFD: one for each maximal start of a
 * character in a tokenizer of bytes, as Rust and Python replace; one for each
 * byte in a tokenizer of characters.  (Hugging Face replaces a whole run of
 * byte tokens if one of them is wrong, so a stream would have to wait for its
 * end.) */
#include "token_decoder.h"

#include <string.h>

#include "alloc.h"

void qmi_token_decoder_free(qmi_token_decoder *decoder)
{
    qmi_free(decoder->space);
    *decoder = (qmi_token_decoder){0};
}

/* Appends text, without NUL and without the leading spaces to be left out. */
static void put(const qmi_token_decoder *d, qmi_decoding *s, qmi_text *out,
    const char *text, size_t n)
{
    while (n != 0 && !s->has_text && s->n_stripped < d->n_strip &&
           text[0] == ' ') {
        s->n_stripped++;
        text++;
        n--;
    }
    s->has_text = s->has_text || n != 0;
    while (n != 0) {
        const char *nul = memchr(text, '\0', n);
        const size_t n_plain = nul != NULL ? (size_t)(nul - text) : n;
        qmi_text_bytes(out, text, n_plain);
        text += n_plain + (nul != NULL);
        n -= n_plain + (nul != NULL);
    }
}

/* ---- bytes ---- */

/* Whether `byte` can follow held[0..n_held), n_held > 0. */
static bool continues(const qmi_decoding *s, uint8_t byte)
{
    const uint8_t first = (uint8_t)s->held[0];
    uint8_t low = 0x80, high = 0xbf;
    if (s->n_held == 1 && first == 0xe0)
        low = 0xa0;
    else if (s->n_held == 1 && first == 0xed)
        high = 0x9f;
    else if (s->n_held == 1 && first == 0xf0)
        low = 0x90;
    else if (s->n_held == 1 && first == 0xf4)
        high = 0x8f;
    return byte >= low && byte <= high;
}

/* How many bytes a character has that begins with `byte`; 0: none does. */
static size_t character_bytes(uint8_t byte)
{
    if (byte < 0x80)
        return 1;
    if (byte < 0xc2 || byte > 0xf4)
        return 0;
    return 2 + (size_t)(byte >= 0xe0) + (size_t)(byte >= 0xf0);
}

/* What is held is no character. */
static void give_up(const qmi_token_decoder *d, qmi_decoding *s, qmi_text *out)
{
    const size_t n = d->by_characters ? s->n_held : s->n_held != 0;
    s->n_held = 0;
    for (size_t i = 0; i < n; i++)
        put(d, s, out, "\xef\xbf\xbd", 3);
}

static void put_byte(
    const qmi_token_decoder *d, qmi_decoding *s, qmi_text *out, uint8_t byte)
{
    if (s->n_held != 0 && !continues(s, byte))
        give_up(d, s, out);
    s->held[s->n_held++] = (char)byte;
    const size_t n = character_bytes((uint8_t)s->held[0]);
    if (n == 0) {
        give_up(d, s, out);
    } else if (s->n_held == n) {
        s->n_held = 0;
        put(d, s, out, s->held, n);
    }
}

static void put_bytes(const qmi_token_decoder *d, qmi_decoding *s,
    qmi_text *out, const char *bytes, size_t n)
{
    /* Most tokens are ASCII behind ASCII. */
    size_t n_ascii = 0;
    while (s->n_held == 0 && n_ascii < n && (uint8_t)bytes[n_ascii] < 0x80)
        n_ascii++;
    put(d, s, out, bytes, n_ascii);
    for (size_t i = n_ascii; i < n; i++)
        put_byte(d, s, out, (uint8_t)bytes[i]);
}

/* ---- characters ---- */

/* The text of a token in which `space` stands for spaces. */
static void put_spaced(const qmi_token_decoder *d, qmi_decoding *s,
    qmi_text *out, const char *text, size_t n, bool first)
{
    const size_t n_space = d->space != NULL ? strlen(d->space) : 0;
    while (n != 0) {
        const char *space =
            n_space != 0 ? memmem(text, n, d->space, n_space) : NULL;
        if (space == NULL) {
            put(d, s, out, text, n);
            return;
        }
        put(d, s, out, text, (size_t)(space - text));
        if (!first || !d->drop_first)
            put(d, s, out, " ", 1);
        n -= (size_t)(space - text) + n_space;
        text = space + n_space;
    }
}

void qmi_decode_text(const qmi_token_decoder *decoder, qmi_decoding *state,
    qmi_text *out, const char *bytes, size_t n)
{
    const bool first = !state->begun;
    state->begun = true;
    if (decoder->by_characters) {
        give_up(decoder, state, out);
        put_spaced(decoder, state, out, bytes, n, first);
    } else {
        put_bytes(decoder, state, out, bytes, n);
    }
}

void qmi_decode_byte(const qmi_token_decoder *decoder, qmi_decoding *state,
    qmi_text *out, char byte)
{
    state->begun = true;
    put_byte(decoder, state, out, (uint8_t)byte);
}

void qmi_decode_end(
    const qmi_token_decoder *decoder, qmi_decoding *state, qmi_text *out)
{
    give_up(decoder, state, out);
}
