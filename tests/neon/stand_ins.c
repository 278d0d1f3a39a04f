/* SPDX-License-Identifier: Apache-2.0
 * Stands for libraries that are not there for the processor: OpenBLAS as the
 * CPU backend calls it, and cJSON, whose output (qmoe-check --json) is lost. */
#include <cblas.h>
#include <cjson/cJSON.h>

static float dot(const float *a, const float *b, int n)
{
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

void cblas_sgemv(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE trans, int m,
    int n, float alpha, const float *a, int lda, const float *x, int incx,
    float beta, float *y, int incy)
{
    (void)order, (void)trans, (void)incx, (void)beta, (void)incy;
    for (int i = 0; i < m; i++)
        y[i] = alpha * dot(a + (long)i * lda, x, n);
}

void cblas_sgemm(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE trans_a,
    enum CBLAS_TRANSPOSE trans_b, int m, int n, int k, float alpha,
    const float *a, int lda, const float *b, int ldb, float beta, float *c,
    int ldc)
{
    (void)order, (void)trans_a, (void)trans_b, (void)beta;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            c[(long)i * ldc + j] =
                alpha * dot(a + (long)i * lda, b + (long)j * ldb, k);
}

char *openblas_get_corename(void)
{
    static char name[] = "none";
    return name;
}

void openblas_set_num_threads(int n)
{
    (void)n;
}

cJSON *cJSON_CreateObject(void)
{
    return 0;
}

cJSON *cJSON_AddStringToObject(
    cJSON *const object, const char *const name, const char *const text)
{
    (void)name, (void)text;
    return object;
}

cJSON *cJSON_AddNumberToObject(
    cJSON *const object, const char *const name, const double number)
{
    (void)name, (void)number;
    return object;
}

cJSON *cJSON_AddArrayToObject(cJSON *const object, const char *const name)
{
    (void)name;
    return object;
}

cJSON_bool cJSON_AddItemToArray(cJSON *array, cJSON *item)
{
    (void)array, (void)item;
    return 0;
}

char *cJSON_Print(const cJSON *item)
{
    (void)item;
    return 0;
}

void cJSON_free(void *object)
{
    (void)object;
}

void cJSON_Delete(cJSON *item)
{
    (void)item;
}
