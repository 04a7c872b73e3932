/* What a decoder layer does between its products, each in one pass over its rows: native.py compiles and calls it.
 *
 * A row's numbers depend on that row alone: sums run in one order, whatever the number of rows or threads. Results are
 * rounded to the element type where transformers rounds them. Compiled once for bfloat16 (-DBF16) and once for float32.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef BF16
typedef uint16_t element;
static inline float load(element value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}
static inline element store(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (element)rounded;
}
#else
typedef float element;
static inline float load(element value) { return value; }
static inline element store(float value) { return value; }
#endif
static inline float rounded(float value) { return load(store(value)); }

enum { CHUNK = 64, PARALLEL = 16384 };

/* e^x within 2 units of the last place (Cephes); a function of the C library would not be vectorised. */
static inline float exponential(float x) {
    float n = floorf(x * 1.44269504f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    /* Whole numbers are cut off, not x: with that gcc computes branches of what follows, in denormal numbers. */
    int32_t exponent = (int32_t)n;
    exponent = exponent < -125 ? -125 : exponent;
    exponent = exponent > 127 ? 127 : exponent;
    uint32_t bits = (uint32_t)(exponent + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}

typedef float lanes16 __attribute__((vector_size(64), aligned(4)));
typedef float lanes8 __attribute__((vector_size(32)));
typedef float lanes4 __attribute__((vector_size(16)));

/* The product of two rows; halves are added to each other, where gcc's own reduction adds lane to lane. */
static inline float dot(const float *a, const float *b, int64_t width) {
    lanes16 sums = {0};
    float rest = 0;
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) sums += *(const lanes16 *)(a + i) * *(const lanes16 *)(b + i);
    for (; i < width; i++) rest += a[i] * b[i];
    lanes8 eight = __builtin_shufflevector(sums, sums, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(sums, sums, 8, 9, 10, 11, 12, 13, 14, 15);
    lanes4 four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
    return ((four[0] + four[2]) + (four[1] + four[3])) + rest;
}

/* states += delta (unless it is NULL), and normed = RMS norm of states * weight. [rows, width] */
void add_norm(element *states, const element *delta, const element *weight, element *normed, int64_t rows,
              int64_t width, float epsilon) {
#pragma omp parallel for if (rows * width >= PARALLEL)
    for (int64_t row = 0; row < rows; row++) {
        element *x = states + row * width, *y = normed + row * width;
        float sum = 0;
        if (delta) {
            const element *d = delta + row * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) x[i] = store(load(x[i]) + load(d[i]));
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; i++) sum += load(x[i]) * load(x[i]);
        float scale = 1.0f / sqrtf(sum / (float)width + epsilon);
#pragma omp simd
        for (int64_t i = 0; i < width; i++) y[i] = store(rounded(load(x[i]) * scale) * load(weight[i]));
    }
}

/* Rotates queries in place; rotated keys, and values, go to pool[slots[row]]. heads [rows, queries + 2 * kv, width],
 * cosines and sines [rows, width], pool [positions, 2 * kv, width] */
void rotate(element *heads, const element *cosines, const element *sines, element *pool, const int64_t *slots,
            int64_t rows, int64_t queries, int64_t kv, int64_t width) {
    int64_t half = width / 2;
#pragma omp parallel for if (rows * (queries + kv) * width >= PARALLEL)
    for (int64_t row = 0; row < rows; row++) {
        const element *c = cosines + row * width, *s = sines + row * width;
        element *x = heads + row * (queries + 2 * kv) * width, *kept = pool + slots[row] * 2 * kv * width;
        for (int64_t head = 0; head < queries + kv; head++, x += width) {
            element *y = head < queries ? x : kept + (head - queries) * width;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                float low = load(x[i]), high = load(x[i + half]);
                y[i] = store(rounded(low * load(c[i])) - rounded(high * load(s[i])));
                y[i + half] = store(rounded(high * load(c[i + half])) + rounded(low * load(s[i + half])));
            }
        }
        memcpy(kept + kv * width, x, (size_t)(kv * width) * sizeof(element));
    }
}

/* Attention of the queries of one head of keys and values to positions begin..end: softmax over chunks of positions. */
static inline __attribute__((always_inline)) void attend_head(const element *query, const element *keys, const element *values, element *output, int64_t group,
                        int64_t begin, int64_t end, int64_t key_stride, int64_t value_stride, int64_t key_width,
                        int64_t value_width, float scaling) {
    float q[group * key_width], sums[group * value_width], scores[group * CHUNK], largest[group], total[group];
    float key[key_width], value[value_width];
    for (int64_t i = 0; i < group * key_width; i++) q[i] = load(query[i]) * scaling;
    for (int64_t i = 0; i < group * value_width; i++) sums[i] = 0;
    for (int64_t g = 0; g < group; g++) largest[g] = -INFINITY, total[g] = 0;
    for (int64_t first = begin; first < end; first += CHUNK) {
        int64_t count = end - first < CHUNK ? end - first : CHUNK;
        for (int64_t p = 0; p < count; p++) {
            const element *k = keys + (first + p) * key_stride;
#pragma omp simd
            for (int64_t i = 0; i < key_width; i++) key[i] = load(k[i]);
            for (int64_t g = 0; g < group; g++) scores[g * CHUNK + p] = dot(q + g * key_width, key, key_width);
        }
        for (int64_t g = 0; g < group; g++) {
            float *s = scores + g * CHUNK, before = largest[g], now = before, sum = 0;
#pragma omp simd reduction(max : now)
            for (int64_t p = 0; p < count; p++) now = s[p] > now ? s[p] : now;
#pragma omp simd reduction(+ : sum)
            for (int64_t p = 0; p < count; p++) {
                s[p] = exponential(s[p] - now);
                sum += s[p];
            }
            largest[g] = now;
            if (first == begin) {
                total[g] = sum;
                continue;
            }
            float shrink = exponential(before - now);
            total[g] = total[g] * shrink + sum;
#pragma omp simd
            for (int64_t i = 0; i < value_width; i++) sums[g * value_width + i] *= shrink;
        }
        for (int64_t p = 0; p < count; p++) {
            const element *v = values + (first + p) * value_stride;
#pragma omp simd
            for (int64_t i = 0; i < value_width; i++) value[i] = load(v[i]);
            for (int64_t g = 0; g < group; g++) {
                float share = scores[g * CHUNK + p];
#pragma omp simd
                for (int64_t i = 0; i < value_width; i++) sums[g * value_width + i] += share * value[i];
            }
        }
    }
    for (int64_t g = 0; g < group; g++)
        for (int64_t i = 0; i < value_width; i++)
            output[g * value_width + i] = store(sums[g * value_width + i] / total[g]);
}

/* One query per row and head: row r looks at positions begins[r]..ends[r]. queries [rows, kv * group, key_width] with
 * query_stride between rows, keys and values [positions, kv, width] with their strides between positions,
 * output [rows, kv * group, value_width] */
void attend(const element *queries, const element *keys, const element *values, element *output, const int64_t *begins,
            const int64_t *ends, int64_t rows, int64_t kv, int64_t group, int64_t query_stride, int64_t key_stride,
            int64_t value_stride, int64_t key_width, int64_t value_width, float scaling) {
    int64_t positions = 0;
    for (int64_t row = 0; row < rows; row++) positions += ends[row] - begins[row];
#pragma omp parallel for schedule(dynamic, 1) if (positions * kv * group * key_width >= 4 * PARALLEL)
    for (int64_t item = 0; item < rows * kv; item++) {
        int64_t row = item / kv, head = item % kv;
        const element *q = queries + row * query_stride + head * group * key_width;
        const element *k = keys + head * key_width, *v = values + head * value_width;
        element *out = output + (row * kv + head) * group * value_width;
        /* The usual widths as constants, which are unrolled. */
        if (key_width == 64 && value_width == 64)
            attend_head(q, k, v, out, group, begins[row], ends[row], key_stride, value_stride, 64, 64, scaling);
        else if (key_width == 128 && value_width == 128)
            attend_head(q, k, v, out, group, begins[row], ends[row], key_stride, value_stride, 128, 128, scaling);
        else
            attend_head(q, k, v, out, group, begins[row], ends[row], key_stride, value_stride, key_width, value_width,
                        scaling);
    }
}

/* silu of the first half of each row times its second half. gate_up [rows, 2 * width], output [rows, width] */
void gate(const element *gate_up, element *output, int64_t rows, int64_t width) {
#pragma omp parallel for if (rows * width >= PARALLEL)
    for (int64_t row = 0; row < rows; row++) {
        const element *x = gate_up + row * 2 * width;
        element *y = output + row * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            float value = load(x[i]);
            y[i] = store(rounded(value / (1.0f + exponential(-value))) * load(x[i + width]));
        }
    }
}
