/* SPDX-License-Identifier: Apache-2.0
 * One self-contained HTML page with charts in inline SVG: what `qmoe report`
 * writes.  No script, no font and no picture from elsewhere. */
#ifndef CLI_PAGE_H
#define CLI_PAGE_H

#include "cli.h"

/* What the page shows.  Pointers are borrowed; NULL where not known. */
typedef struct cli_page_data {
    const char *name;        /* of the model, for the title */
    const cJSON *report;     /* qmoe_report.json (docs/report.md) */
    const cJSON *provenance; /* quantization_config of config.json */
    const qmoe_comparison *comparison;
    const char *base;                /* the model compared with */
    cli_texts texts;                 /* that both read */
    uint64_t bytes[QMOE_ROLE_COUNT]; /* of all weights, by role */
    uint64_t weights[QMOE_ROLE_COUNT];
} cli_page_data;

/* All of it; errors of writing are found by ferror. */
void cli_page_write(FILE *to, const cli_page_data *data);

/* ---- page_experts.c ---------------------------------------------------- */

/* A member of an object of the report.  NaN, "", NULL: it is missing or of
 * another type. */
double cli_page_number(const cJSON *object, const char *key);
const char *cli_page_word(const cJSON *object, const char *key);
const cJSON *cli_page_list(const cJSON *object, const char *key);
/* Of a list; 0 for NULL. */
size_t cli_page_length(const cJSON *array);
/* Of a matrix or totals: of the outputs, or of the weights where no calibration
 * measured those. */
double cli_page_error(const cJSON *object);
/* Bits, errors and tokens of the experts, block by block. */
void cli_page_experts(FILE *to, const cJSON *report);

/* ---- page_chart.c ------------------------------------------------------ */

/* Text of a file in HTML: nothing in it is markup. */
void cli_page_text(FILE *to, const char *text);

/* Values over depth, one line per series. */
typedef struct cli_series {
    const char *name;
    const double *values; /* [n_points]; NaN: none at this point */
} cli_series;

typedef struct cli_chart {
    const char *title;         /* also for readers of the screen */
    const char *const *points; /* [n_points] labels below the axis */
    size_t n_points;
    const cli_series *series;
    size_t n_series;
    bool is_logarithmic;
} cli_chart;

void cli_page_chart(FILE *to, const cli_chart *chart);

/* Parts of a whole as one bar, with a legend. */
typedef struct cli_part {
    const char *name, *text; /* text: the part in words */
    double size;
} cli_part;
void cli_page_bar(FILE *to, const char *title, const cli_part *parts, size_t n);

/* One cell per value, darker for larger ones; NaN: an empty cell. */
typedef struct cli_map {
    const char *title;
    const char *const *rows; /* [n_rows] labels */
    size_t n_rows, n_columns;
    const double *values; /* [n_rows, n_columns] */
} cli_map;
void cli_page_map(FILE *to, const cli_map *map);

#endif
