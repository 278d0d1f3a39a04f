/* SPDX-License-Identifier: Apache-2.0
 * Weight formats as the tool shows them: found by name, and listed in help
 * texts, where "{rotating}" and the like stand for names of the library's
 * table.  In: a help text with keys.  Out: the same text with names.  So no
 * text of the tool names a format, and a new one is in every list at once. */
#include "formats.h"

#include <stdio.h>
#include <string.h>

/* NULL: the first, which is the default. */
bool cli_find_format(qmoe_format_info *out, const char *name)
{
    for (size_t i = 0; qmoe_format_describe(out, i); i++)
        if (name == NULL || strcmp(out->name, name) == 0)
            return true;
    *out = (qmoe_format_info){0};
    return false;
}

/* Formats have rounds always, never, or only when their levels are fitted. */
bool cli_format_makes_rounds(const qmoe_format_info *f, bool fit_levels)
{
    return f->passes != 0 && (fit_levels || !f->passes_fit_levels);
}

/* ---- lists ---- */

/* A trait as a function, so that a list can be said by a table. */
static bool is_any(const qmoe_format_info *f)
{
    return f->name != NULL;
}

static bool rotates(const qmoe_format_info *f)
{
    return f->rotates;
}

static bool has_levels(const qmoe_format_info *f)
{
    return f->has_levels;
}

static bool has_dictionary(const qmoe_format_info *f)
{
    return f->has_dictionary;
}

static bool is_in_budget(const qmoe_format_info *f)
{
    return f->in_budget;
}

static bool is_variable(const qmoe_format_info *f)
{
    return f->is_variable;
}

static bool makes_rounds(const qmoe_format_info *f)
{
    return cli_format_makes_rounds(f, false);
}

/* A key of help texts: the formats that have the trait, and what stands between
 * their names. */
typedef struct list {
    const char *key;
    bool (*has)(const qmoe_format_info *f);
    const char *between;
    bool says_rounds; /* behind each name its default */
} list;

static const list lists[] = {
    {"{formats}", is_any, ", ", false},
    {"{rotating}", rotates, ", ", false},
    {"{levels}", has_levels, ", ", false},
    {"{dictionary}", has_dictionary, ", ", false},
    {"{budget}", is_in_budget, " and ", false},
    {"{variable}", is_variable, ", ", false},
    {"{rounds}", makes_rounds, ", ", true},
};

/* Length of "name-" where a rate follows, and formats differ in that alone; 0:
 * the name says no rate. */
static size_t family_length(const char *name)
{
    const size_t n = strcspn(name, "-");
    const char rate = name[n] == '-' ? name[n + 1] : '\0';
    return rate >= '0' && rate <= '9' ? n + 1 : 0;
}

/* A family, whose members are neighbours, is named once: "name-*". */
static void print_list(const list *l)
{
    qmoe_format_info f, last = {.name = ""};
    const char *between = "";
    for (size_t i = 0; qmoe_format_describe(&f, i); i++) {
        const size_t n = family_length(f.name);
        if (!l->has(&f) || (n != 0 && strncmp(f.name, last.name, n) == 0))
            continue;
        printf("%s%.*s%s", between, n != 0 ? (int)n : (int)strlen(f.name),
            f.name, n != 0 ? "*" : "");
        if (l->says_rounds)
            printf(" %d", f.passes);
        between = l->between;
        last = f;
    }
}

/* A line for each format, aligned with the texts of options. */
static void print_summaries(void)
{
    qmoe_format_info f;
    for (size_t i = 0; qmoe_format_describe(&f, i); i++)
        printf("%25s%-13s %s\n", "", f.name, f.summary);
}

static void print_default(void)
{
    qmoe_format_info f;
    if (cli_find_format(&f, NULL))
        printf("%s", f.name);
}

/* Prints what stands for the key that begins `text`; its length, or 0. */
static size_t print_key(const char *text)
{
    static const char summaries[] = "{summaries}", chosen[] = "{default}";
    if (strncmp(text, summaries, sizeof summaries - 1) == 0) {
        print_summaries();
        return sizeof summaries; /* and the end of its line */
    }
    if (strncmp(text, chosen, sizeof chosen - 1) == 0) {
        print_default();
        return sizeof chosen - 1;
    }
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const size_t n = strlen(lists[i].key);
        if (strncmp(text, lists[i].key, n) != 0)
            continue;
        print_list(&lists[i]);
        return n;
    }
    return 0;
}

void cli_print_help(const char *text)
{
    /* A brace that begins no key is printed as it is. */
    while (*text != '\0') {
        const size_t n = *text == '{' ? print_key(text) : 0;
        if (n == 0)
            putchar(*text++);
        text += n;
    }
}
