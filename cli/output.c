/* SPDX-License-Identifier: Apache-2.0
 * What goes to stdout: sizes for people, JSON for programs, and whether all of
 * it arrived.  In: numbers, names from files, documents.  Out: text that a
 * terminal and a JSON reader can take, whatever bytes the names hold.  A write
 * that fails is found at the latest by cli_flush, which makes it the exit
 * code. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Why a write to stdout failed, as far as noted; 0: none known. */
static int write_error;

/* Powers of 1000, as disks are sold.  By value, so that two can stand in one
 * printf. */
cli_size cli_human_bytes(uint64_t n_bytes)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
    cli_size size;
    if (n_bytes < 1000) {
        snprintf(size.text, sizeof size.text, "%d B", (int)n_bytes);
        return size;
    }
    size_t unit = 0;
    double value = (double)n_bytes / 1000;
    /* 999.95 would be printed as 1000.0. */
    for (; value >= 999.95; unit++)
        value /= 1000;
    snprintf(size.text, sizeof size.text, "%.1f %s", value, units[unit]);
    return size;
}

/* A name could move the cursor or colour the terminal. */
void cli_print_name(FILE *to, const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        fputc(c < 0x20 || c == 0x7f ? '?' : c, to);
    }
}

/* ---- JSON ---- */

/* Length of the well-formed UTF-8 sequence at `p`, or 0.  A NUL ends every
 * comparison, so nothing behind the text is read. */
static size_t sequence_length(const unsigned char *p)
{
    unsigned char low = 0x80, high = 0xbf;
    size_t n = p[0] < 0x80                    ? 1
               : p[0] >= 0xc2 && p[0] <= 0xdf ? 2
               : p[0] >= 0xe0 && p[0] <= 0xef ? 3
               : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4
                                              : 0;
    /* Over-long forms, surrogates, beyond U+10FFFF. */
    if (p[0] == 0xe0)
        low = 0xa0;
    else if (p[0] == 0xed)
        high = 0x9f;
    else if (p[0] == 0xf0)
        low = 0x90;
    else if (p[0] == 0xf4)
        high = 0x8f;
    /* Only the second byte has a narrower range. */
    for (size_t i = 1; i < n; i++) {
        if (p[i] < low || p[i] > high)
            return 0;
        low = 0x80;
        high = 0xbf;
    }
    return n;
}

void cli_json_text(cJSON *object, const char *key, const char *text)
{
    static const char replacement[] = "\xef\xbf\xbd";
    /* File names are bytes; JSON is UTF-8.  A byte that is no UTF-8 becomes
     * three, so the text may grow threefold. */
    char *valid = cli_grow(NULL, 3 * strlen(text) + 1);
    size_t n_valid = 0;
    while (*text != '\0') {
        size_t n = sequence_length((const unsigned char *)text);
        const char *from = n != 0 ? text : replacement;
        size_t n_from = n != 0 ? n : sizeof replacement - 1;
        memcpy(valid + n_valid, from, n_from);
        n_valid += n_from;
        text += n != 0 ? n : 1;
    }
    valid[n_valid] = '\0';
    cJSON_AddStringToObject(object, key, valid);
    cJSON_free(valid);
}

void cli_json_name(cJSON *object, const char *key, const char *name)
{
    if (name != NULL)
        cli_json_text(object, key, name);
    else
        /* null: there is no such name. */
        cJSON_AddNullToObject(object, key);
}

void cli_json_count(cJSON *object, const char *key, uint64_t value)
{
    /* cJSON's numbers are doubles, exact to 2^53 only. */
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRIu64, value);
    cJSON_AddRawToObject(object, key, digits);
}

void cli_json_real(cJSON *object, const char *key, double value)
{
    cJSON_AddNumberToObject(object, key, value);
}

void cli_json_print(cJSON *document)
{
    char *text = cJSON_Print(document);
    cli_clear_progress();
    /* More than stdout's buffer holds: the flush at the end may succeed, and
     * errno is lost by then. */
    if (text != NULL && puts(text) == EOF)
        write_error = errno;
    cJSON_free(text);
    /* The document is used up, printed or not. */
    cJSON_Delete(document);
}

cli_exit cli_flush(cli_exit code)
{
    if (fflush(stdout) != 0)
        write_error = errno;
    /* After another error this one adds nothing, and one line is promised. */
    if (code != CLI_OK || (write_error == 0 && !ferror(stdout)))
        return code;
    return cli_fail(CLI_FILES, "standard output: %s",
        write_error != 0 ? strerror(write_error)
                         : "not everything could be written");
}
