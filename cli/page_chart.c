/* SPDX-License-Identifier: Apache-2.0
 * In: numbers and labels.  Out: SVG and HTML elements.  Colours are classes of
 * the page's style sheet (page.c), so that they follow the reader's light or
 * dark theme; every mark has a title, which browsers show under the pointer and
 * screen readers speak. */
#include "page.h"

#include <math.h>
#include <string.h>

/* Pixels of a chart; its text is as large as the page's. */
enum {
    WIDTH = 720,
    HEIGHT = 240,
    LEFT = 64,
    RIGHT = 12,
    TOP = 12,
    BOTTOM = 28,
    N_COLOURS = 9, /* classes c0 to c8, one for each role */
    MOST_LABELS = 24
};

void cli_page_text(FILE *to, const char *text)
{
    for (; *text != '\0'; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '<')
            fputs("&lt;", to);
        else if (c == '>')
            fputs("&gt;", to);
        else if (c == '&')
            fputs("&amp;", to);
        else if (c == '"')
            fputs("&quot;", to);
        else
            fputc(c < 0x20 || c == 0x7f ? '?' : c, to);
    }
}

static void open_figure(FILE *to, const char *title, int width, int height)
{
    fputs("<figure><figcaption>", to);
    cli_page_text(to, title);
    fprintf(to,
        "</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"",
        width, height);
    cli_page_text(to, title);
    fputs("\">\n", to);
}

static void legend(FILE *to, const char *const *names, size_t n)
{
    fputs("<p class=\"legend\">", to);
    for (size_t i = 0; i < n; i++) {
        fprintf(to, "<span><i class=\"c%zu\"></i>", i % N_COLOURS);
        cli_page_text(to, names[i]);
        fputs("</span> ", to);
    }
    fputs("</p>\n", to);
}

/* ---- lines over depth ---- */

typedef struct axis {
    double low, high;
    bool is_logarithmic;
} axis;

static double position(const axis *a, double value)
{
    const double span = a->high - a->low;
    const double v = a->is_logarithmic ? log10(value) : value;
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (v - a->low) / span);
}

/* Whether a value can be drawn. */
static bool is_shown(const axis *a, double value)
{
    return isfinite(value) && (!a->is_logarithmic || value > 0);
}

static double nice_above(double value)
{
    const double unit = pow(10, floor(log10(value)));
    static const double steps[] = {1, 1.5, 2, 3, 4, 5, 8};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (value <= steps[i] * unit)
            return steps[i] * unit;
    return 10 * unit;
}

/* From 0 to a round number, or whole powers of ten. */
static axis choose_axis(const cli_chart *c)
{
    axis a = {.is_logarithmic = c->is_logarithmic};
    double least = INFINITY, most = 0;
    for (size_t i = 0; i < c->n_series; i++)
        for (size_t k = 0; k < c->n_points; k++) {
            const double value = c->series[i].values[k];
            if (!is_shown(&a, value))
                continue;
            least = fmin(least, value);
            most = fmax(most, value);
        }
    if (most <= 0)
        return (axis){.high = 1};
    if (!a.is_logarithmic) {
        a.high = nice_above(most);
        return a;
    }
    a.low = floor(log10(least));
    a.high = ceil(log10(most));
    if (a.high == a.low)
        a.high++;
    return a;
}

static void grid(FILE *to, const axis *a)
{
    const int n = a->is_logarithmic ? (int)(a->high - a->low) : 4;
    /* Decades are many only in strange reports. */
    const int step = n > 8 ? n / 8 + 1 : 1;
    for (int i = 0; i <= n; i += step) {
        const double v = a->low + (a->high - a->low) * i / n;
        const double value = a->is_logarithmic ? pow(10, v) : v;
        const double y = position(a, value);
        fprintf(to,
            "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" "
            "y2=\"%.1f\"/><text class=\"end\" x=\"%d\" y=\"%.1f\">%.3g"
            "</text>\n",
            LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, value);
    }
}

static double column(const cli_chart *c, size_t i)
{
    return LEFT +
           (WIDTH - LEFT - RIGHT) * ((double)i + 0.5) / (double)c->n_points;
}

static void label_points(FILE *to, const cli_chart *c)
{
    const size_t step = (c->n_points + MOST_LABELS - 1) / MOST_LABELS;
    for (size_t i = 0; i < c->n_points; i += step) {
        fprintf(to, "<text class=\"mid\" x=\"%.1f\" y=\"%d\">", column(c, i),
            HEIGHT - 8);
        cli_page_text(to, c->points[i]);
        fputs("</text>\n", to);
    }
}

static void draw_series(
    FILE *to, const cli_chart *c, const axis *a, size_t number)
{
    const cli_series *s = &c->series[number];
    fprintf(to, "<polyline class=\"s%zu\" points=\"", number % N_COLOURS);
    for (size_t i = 0; i < c->n_points; i++)
        if (is_shown(a, s->values[i]))
            fprintf(to, "%.1f,%.1f ", column(c, i), position(a, s->values[i]));
    fputs("\"/>\n", to);
    for (size_t i = 0; i < c->n_points; i++) {
        if (!is_shown(a, s->values[i]))
            continue;
        fprintf(to,
            "<circle class=\"c%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\">"
            "<title>",
            number % N_COLOURS, column(c, i), position(a, s->values[i]));
        cli_page_text(to, s->name);
        fputs(", ", to);
        cli_page_text(to, c->points[i]);
        fprintf(to, ": %.4g</title></circle>\n", s->values[i]);
    }
}

void cli_page_chart(FILE *to, const cli_chart *c)
{
    const axis a = choose_axis(c);
    open_figure(to, c->title, WIDTH, HEIGHT);
    grid(to, &a);
    label_points(to, c);
    for (size_t i = 0; i < c->n_series; i++)
        draw_series(to, c, &a, i);
    fputs("</svg>\n", to);
    /* One line needs no name but the title's. */
    if (c->n_series > 1) {
        const char *names[N_COLOURS] = {0};
        const size_t n = c->n_series < N_COLOURS ? c->n_series : N_COLOURS;
        for (size_t i = 0; i < n; i++)
            names[i] = c->series[i].name;
        legend(to, names, n);
    }
    fputs("</figure>\n", to);
}

/* ---- parts of a whole ---- */

void cli_page_bar(FILE *to, const char *title, const cli_part *parts, size_t n)
{
    enum { BAR = 28 };
    double sum = 0, at = 0;
    for (size_t i = 0; i < n; i++)
        sum += parts[i].size;
    open_figure(to, title, WIDTH, BAR);
    for (size_t i = 0; sum > 0 && i < n; i++) {
        const double width = WIDTH * parts[i].size / sum;
        fprintf(to,
            "<rect class=\"c%zu\" x=\"%.2f\" y=\"0\" width=\"%.2f\" "
            "height=\"%d\"><title>",
            i % N_COLOURS, at, width, BAR);
        cli_page_text(to, parts[i].name);
        fputs(": ", to);
        cli_page_text(to, parts[i].text);
        fputs("</title></rect>\n", to);
        at += width;
    }
    fputs("</svg>\n<p class=\"legend\">", to);
    for (size_t i = 0; i < n; i++) {
        fprintf(to, "<span><i class=\"c%zu\"></i>", i % N_COLOURS);
        cli_page_text(to, parts[i].name);
        fputs(" <b>", to);
        cli_page_text(to, parts[i].text);
        fputs("</b></span> ", to);
    }
    fputs("</p></figure>\n", to);
}

/* ---- cells ---- */

void cli_page_map(FILE *to, const cli_map *m)
{
    enum { ROW = 18 };
    double most = 0;
    for (size_t i = 0; i < m->n_rows * m->n_columns; i++)
        if (isfinite(m->values[i]))
            most = fmax(most, m->values[i]);
    const double width =
        (double)(WIDTH - LEFT - RIGHT) / (double)(m->n_columns + !m->n_columns);
    open_figure(to, m->title, WIDTH, (int)m->n_rows * ROW + 4);
    for (size_t r = 0; r < m->n_rows; r++) {
        fprintf(to, "<text class=\"end\" x=\"%d\" y=\"%zu\">", LEFT - 6,
            r * ROW + 14);
        cli_page_text(to, m->rows[r]);
        fputs("</text>\n", to);
        for (size_t k = 0; k < m->n_columns; k++) {
            const double v = m->values[r * m->n_columns + k];
            if (!isfinite(v))
                continue;
            fprintf(to,
                "<rect class=\"cell%s\" x=\"%.2f\" y=\"%zu\" width=\"%.2f\" "
                "height=\"%d\" fill-opacity=\"%.3f\"><title>",
                v > 0 ? "" : " none", LEFT + width * (double)k, r * ROW + 2,
                width > 2 ? width - 1 : width, ROW - 2,
                v > 0 ? 0.08 + 0.92 * sqrt(v / most) : 1.0);
            cli_page_text(to, m->rows[r]);
            fprintf(to, ", %zu: %.4g</title></rect>\n", k, v);
        }
    }
    fputs("</svg></figure>\n", to);
}
