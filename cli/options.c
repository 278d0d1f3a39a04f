/* SPDX-License-Identifier: Apache-2.0
 * Arguments of a verb, read by a table.  In: argv and the verb's options.  Out:
 * values at the places the table names, and which options were given.  Numbers
 * are taken strictly: all of the text, within the range the option's table line
 * gives.  Every mistake is one line that names verb, option and value; the
 * first ends the parsing. */
#include "cli.h"
#include "formats.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OPTIONS = 48, HELP = 1000 /* beyond every letter */ };

/* ---- near misses ---- */

/* Number of single-letter changes between two words, at most `MAX_WORD`. */
enum { MAX_WORD = 31 };
static size_t distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b), row[MAX_WORD + 1];
    if (n > MAX_WORD || m > MAX_WORD)
        /* Longer words are not near to anything. */
        return MAX_WORD;
    /* One row of Levenshtein's table at a time; `diagonal` keeps the entry that
     * the row overwrites. */
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m];
}

/* NULL: nothing is near, and a guess would mislead. */
const char *cli_closest(
    const char *word, const char *const *candidates, size_t n)
{
    const char *closest = NULL;
    size_t n_word = strlen(word);
    /* A third of the letters may be wrong: "verfy", but not "foo". */
    size_t best = n_word / 3 + 1;
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, candidates[i]);
        /* The beginning of a name is what people abbreviate to. */
        if (n_word >= 3 && strncmp(word, candidates[i], n_word) == 0)
            d = 0;
        if (d < best) {
            best = d;
            closest = candidates[i];
        }
    }
    return closest;
}

/* ---- what was given ---- */

/* The command line read last: a program has one. */
static struct {
    const cli_option *options;
    const char *text[MAX_OPTIONS]; /* NULL: not given; "": takes no value */
    size_t n;
} given;

/* An option the verb does not have was not given. */
bool cli_given(const char *name)
{
    for (size_t i = 0; i < given.n; i++)
        if (strcmp(given.options[i].name, name) == 0)
            return given.text[i] != NULL;
    return false;
}

cli_exit cli_refuse_idle(
    const cli_verb *verb, const cli_idle *rules, size_t n_rules)
{
    /* The first rule that applies and the first of its options that was given:
     * one line is enough to mend the call. */
    for (const cli_idle *rule = rules; rule < rules + n_rules; rule++) {
        if (!rule->idle)
            continue;
        for (const char *at = rule->options; *at != '\0';) {
            char name[MAX_WORD + 1] = "";
            size_t n = strcspn(at, " ");
            memcpy(name, at, n < MAX_WORD ? n : MAX_WORD);
            if (cli_given(name))
                return cli_fail(CLI_USAGE, "%s: --%s has no effect: %s",
                    verb->name, name, rule->why);
            at += n + strspn(at + n, " ");
        }
    }
    return CLI_OK;
}

/* Remembers an option; a second value would silently replace the first, so it
 * is an error unless both say the same. */
static cli_exit note(
    const cli_verb *verb, const cli_option *option, const char *text)
{
    const char **known = &given.text[option - given.options];
    if (text == NULL)
        text = "";
    if (*known != NULL && option->kind != CLI_TEXTS &&
        strcmp(*known, text) != 0)
        return cli_fail(CLI_USAGE, "%s: --%s is given twice, as '%s' and '%s'",
            verb->name, option->name, *known, text);
    *known = text;
    return CLI_OK;
}

/* ---- values ---- */

/* "1000000" or "1e6": all digits count in the first form, doubles hold whole
 * numbers up to 2^53 in the second. */
static bool parse_count(uint64_t *out, const char *text)
{
    char *end;
    /* strtoull takes signs and leading space, and negates. */
    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    *out = strtoull(text, &end, 10);
    if (errno == 0 && *end == '\0')
        return true;
    if (strpbrk(text, "xX") != NULL || strpbrk(text, "eE") == NULL)
        return false;
    const double value = strtod(text, &end);
    if (*end != '\0' || !(value <= 0x1p53) || value != floor(value))
        return false;
    *out = (uint64_t)value;
    return true;
}

/* Signs are no part of any range here. */
static bool parse_real(float *out, const char *text)
{
    char *end;
    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        return false;
    *out = strtof(text, &end);
    /* "0x1p3" is a number of strtof, but not one people mean. */
    return *end == '\0' && isfinite(*out) && strpbrk(text, "xX") == NULL;
}

/* The range is that of the table, so the message cannot be wrong. */
static cli_exit fail_range(const cli_option *option, const char *text)
{
    return cli_fail(CLI_USAGE,
        "--%s: '%s' is not a %s from %" PRIu64 " to %" PRIu64, option->name,
        text, option->kind == CLI_COUNT ? "whole number" : "number",
        option->low, option->high);
}

cli_exit cli_parse_size(uint64_t *n_bytes, const char *option, const char *text)
{
    static const char units[] = "KMGT";
    char *end;
    double value = strtod(text, &end);
    /* Powers of 1024, as memory has them; cli_human_bytes prints powers of
     * 1000, as disks do. */
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    if (unit != NULL) {
        value *= (double)(UINT64_C(1) << (10 * (unit - units + 1)));
        end++;
    }
    /* NaN and sizes beyond int64_t are refused by the range. */
    if (end == text || *end != '\0' || !(value >= 1 && value < 9e18))
        return cli_fail(CLI_USAGE,
            "--%s: '%s' is not a size such as 512M or 4G", option, text);
    *n_bytes = (uint64_t)value;
    return CLI_OK;
}

/* Writes only what has been checked; the places keep their defaults else. */
static cli_exit store(const cli_option *option, const char *text)
{
    uint64_t count;
    float real;
    switch (option->kind) {
    case CLI_SET:
    case CLI_CLEAR:
        *(bool *)option->value = option->kind == CLI_SET;
        return CLI_OK;
    case CLI_COUNT:
        if (!parse_count(&count, text) || count < option->low ||
            count > option->high)
            return fail_range(option, text);
        *(uint64_t *)option->value = count;
        return CLI_OK;
    case CLI_REAL:
        if (!parse_real(&real, text) || (double)real < (double)option->low ||
            (double)real > (double)option->high)
            return fail_range(option, text);
        *(float *)option->value = real;
        return CLI_OK;
    case CLI_SIZE:
        return cli_parse_size(option->value, option->name, text);
    case CLI_TEXT:
        *(const char **)option->value = text;
        return CLI_OK;
    case CLI_TEXTS: {
        cli_texts *texts = option->value;
        texts->items =
            cli_grow(texts->items, (texts->n + 1) * sizeof *texts->items);
        texts->items[texts->n++] = text;
        return CLI_OK;
    }
    }
    /* Every kind returns above: a new one without a case shows here. */
    return CLI_INTERNAL;
}

/* ---- the command line ---- */

static cli_exit fail_unknown(const cli_verb *verb, const char *word,
    const cli_option *options, size_t n_options)
{
    const char *names[MAX_OPTIONS];
    const char *name = word + strspn(word, "-");
    for (size_t i = 0; i < n_options; i++)
        names[i] = options[i].name;
    const char *near = cli_closest(name, names, n_options);
    if (near != NULL)
        return cli_fail(CLI_USAGE,
            "%s: unknown option '%s'; did you mean --%s?", verb->name, word,
            near);
    return cli_fail(CLI_USAGE, "%s: unknown option '%s'; see 'qmoe %s --help'",
        verb->name, word, verb->name);
}

/* getopt's own messages are off; this says the same in the tool's form. */
static cli_exit fail_option(const cli_verb *verb, int found, char **argv,
    const cli_option *options, size_t n_options)
{
    /* optind is past the word that failed. */
    const char *word = argv[optind - 1];
    char letter[] = {'-', (char)optopt, '\0'};
    if (found == ':')
        return cli_fail(
            CLI_USAGE, "%s: option '%s' needs a value", verb->name, word);
    if (strncmp(word, "--", 2) != 0 && optopt != 0)
        return fail_unknown(verb, letter, options, n_options);
    /* "--json=1": the name is known, so the value is the mistake. */
    for (size_t i = 0; i < n_options; i++) {
        size_t n = strlen(options[i].name);
        if (strncmp(word + 2, options[i].name, n) == 0 && word[2 + n] == '=')
            return cli_fail(CLI_USAGE, "%s: option '--%s' takes no value",
                verb->name, options[i].name);
    }
    return fail_unknown(verb, word, options, n_options);
}

static bool takes_value(const cli_option *option)
{
    return option->kind != CLI_SET && option->kind != CLI_CLEAR;
}

/* The table in getopt_long's form. */
static void translate(struct option *longs, char *letters,
    const cli_option *options, size_t n_options)
{
    /* ':' first: getopt tells a missing value apart from an unknown option. */
    *letters++ = ':';
    *letters++ = 'h';
    for (size_t i = 0; i < n_options; i++) {
        bool value = takes_value(&options[i]);
        /* Values beyond every letter tell long names from letters. */
        longs[i] = (struct option){.name = options[i].name,
            .has_arg = value ? required_argument : no_argument,
            .val = HELP + 1 + (int)i};
        if (options[i].letter == 0)
            continue;
        *letters++ = (char)options[i].letter;
        if (value)
            *letters++ = ':';
    }
    longs[n_options] = (struct option){.name = "help", .val = HELP};
    longs[n_options + 1] = (struct option){0};
    *letters = '\0';
}

/* A letter, or the place of a long name. */
static const cli_option *find(
    int found, const cli_option *options, size_t n_options)
{
    for (size_t i = 0; i < n_options; i++)
        if (found == HELP + 1 + (int)i || found == options[i].letter)
            return &options[i];
    return NULL;
}

/* The codes belong to every verb's help, so they are printed here. */
static cli_exit show_help(const cli_verb *verb)
{
    cli_print_help(verb->help);
    fputs("\nExit codes: 0 success, 130 interrupted, others are errors: see "
          "'qmoe --help'.\n",
        stdout);
    return CLI_OK;
}

/* At most one argument that is no option; getopt has moved it to the end. */
static cli_exit take_argument(const char **argument, const char *what,
    const cli_verb *verb, int argc, char **argv)
{
    int n_wanted = what != NULL ? 1 : 0;
    if (argc - optind > n_wanted)
        return cli_fail(CLI_USAGE, "%s: unexpected argument '%s'", verb->name,
            argv[optind + n_wanted]);
    if (n_wanted == 0)
        return CLI_OK;
    if (optind == argc || argv[optind][0] == '\0')
        return cli_fail(CLI_USAGE, "%s: %s is missing; see 'qmoe %s --help'",
            verb->name, what, verb->name);
    *argument = argv[optind];
    return CLI_OK;
}

bool cli_parse(cli_exit *code, const char **argument, const char *what,
    const cli_verb *verb, int argc, char **argv, const cli_option *options,
    size_t n_options)
{
    struct option longs[MAX_OPTIONS + 2];
    char letters[2 * MAX_OPTIONS + 3];
    int found;
    if (n_options > MAX_OPTIONS) {
        *code = cli_fail(CLI_INTERNAL, "%s: too many options", verb->name);
        return false;
    }
    translate(longs, letters, options, n_options);
    memset(&given, 0, sizeof given);
    given.options = options;
    given.n = n_options;
    opterr = 0;
    *code = CLI_OK;
    /* Options in the order given: the error is that of the first. */
    while ((found = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        if (found == HELP || found == 'h') {
            *code = show_help(verb);
            return false;
        }
        const cli_option *option = find(found, options, n_options);
        if (option == NULL)
            *code = fail_option(verb, found, argv, options, n_options);
        else if ((*code = note(verb, option, optarg)) == CLI_OK)
            *code = store(option, optarg);
        if (*code != CLI_OK)
            return false;
    }
    *code = take_argument(argument, what, verb, argc, argv);
    return *code == CLI_OK;
}
