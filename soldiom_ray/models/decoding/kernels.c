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

enum { CHUNK = 64, PARALLEL = 16384, LANES = 16, TOGETHER = 4, RANKS = 4, AHEAD = 4096 };

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

typedef uint16_t halves16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t words16 __attribute__((vector_size(64)));

static inline lanes16 load_lanes(const element *values) {
#ifdef BF16
    words16 bits = __builtin_convertvector(*(const halves16 *)values, words16) << 16;
    return (lanes16)bits;
#else
    return *(const lanes16 *)values;
#endif
}

static inline float sum_of(lanes16 sums) {
    lanes8 eight = __builtin_shufflevector(sums, sums, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(sums, sums, 8, 9, 10, 11, 12, 13, 14, 15);
    lanes4 four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* The product of two rows; halves are added to each other, where gcc's own reduction adds lane to lane. */
static inline float dot(const float *a, const float *b, int64_t width) {
    lanes16 sums = {0};
    float rest = 0;
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) sums += *(const lanes16 *)(a + i) * *(const lanes16 *)(b + i);
    for (; i < width; i++) rest += a[i] * b[i];
    return sum_of(sums) + rest;
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

/* Adds sums to `lanes` numbers at y. */
static inline __attribute__((always_inline)) void add_lanes(element *y, lanes16 sums, int64_t lanes) {
    float added[LANES];
    memcpy(added, &sums, sizeof added);
#pragma omp simd
    for (int64_t i = 0; i < lanes; i++) y[i] = store(load(y[i]) + added[i]);
}

/* The rows' products with `ranks` rows of `down` at once: one sum alone would wait for itself. */
static inline __attribute__((always_inline)) void multiply_down(const float *rows, const element *down, float *inner,
                                                                int64_t rank, int64_t terms, const int64_t ranks,
                                                                const int64_t count) {
    int64_t whole = terms / LANES * LANES;
    lanes16 sums[RANKS][TOGETHER] = {{{0}}};
    for (int64_t i = 0; i < whole; i += LANES)
        for (int64_t r = 0; r < ranks; r++) {
            if (i % 32 == 0) __builtin_prefetch(down + ranks * terms + r * terms + i);
            lanes16 weights = load_lanes(down + r * terms + i);
            for (int64_t c = 0; c < count; c++) sums[r][c] += weights * *(const lanes16 *)(rows + c * terms + i);
        }
    for (int64_t r = 0; r < ranks; r++)
        for (int64_t c = 0; c < count; c++) {
            float rest = 0;
            for (int64_t i = whole; i < terms; i++) rest += load(down[r * terms + i]) * rows[c * terms + i];
            inner[c * rank + r] = sum_of(sums[r][c]) + rest;
        }
}

/* y += up (down x) for `count` rows of one adapter. down [rank, terms], up [width / LANES, rank, LANES], both read once
 * and in order: what limits one row is memory, so what comes next is fetched ahead. */
static inline __attribute__((always_inline)) void add_rows(const element *x, element *y, const element *down,
                                                           const element *up, int64_t rank, int64_t terms,
                                                           int64_t width, int64_t y_width, const int64_t count) {
    float rows[count * terms], inner[count * rank];
    for (int64_t i = 0; i < count * terms; i++) rows[i] = load(x[i]);
    int64_t r = 0;
    for (; r + RANKS <= rank; r += RANKS) multiply_down(rows, down + r * terms, inner + r, rank, terms, RANKS, count);
    for (; r < rank; r++) multiply_down(rows, down + r * terms, inner + r, rank, terms, 1, count);
    for (int64_t first = 0; first < width; first += LANES, up += rank * LANES) {
        lanes16 sums[TOGETHER] = {{0}};
        for (r = 0; r < rank; r++) {
            if (r % 2 == 0) __builtin_prefetch(up + AHEAD + r * LANES);
            lanes16 weights = load_lanes(up + r * LANES);
            for (int64_t c = 0; c < count; c++) sums[c] += weights * inner[c * rank + r];
        }
        for (int64_t c = 0; c < count; c++) {
            element *z = y + c * y_width + first;
            if (width - first >= LANES) add_lanes(z, sums[c], LANES);
            else add_lanes(z, sums[c], width - first);
        }
    }
}

/* What adapters add to a product of one or several parts side by side. x [rows, terms], y [rows, y_width]; table
 * [adapters, stride]: of each part the addresses of `down` and `up` and the rank, 0 where the adapter has none; groups
 * [group_count, 3]: rows of one adapter, the first, how many (at most TOGETHER) and which; widths [parts] */
void add_low_rank(const element *x, element *y, const int64_t *table, const int64_t *groups, const int64_t *widths,
                  int64_t group_count, int64_t parts, int64_t stride, int64_t terms, int64_t y_width) {
#pragma omp parallel for schedule(dynamic, 1) if (group_count * terms >= PARALLEL / 8)
    for (int64_t item = 0; item < group_count * parts; item++) {
        const int64_t *group = groups + item / parts * 3, *part = table + group[2] * stride + item % parts * 3;
        if (!part[2]) continue;
        const element *rows = x + group[0] * terms;
        const element *down = (const element *)(intptr_t)part[0], *up = (const element *)(intptr_t)part[1];
        element *z = y + group[0] * y_width;
        int64_t width = widths[item % parts];
        for (int64_t before = 0; before < item % parts; before++) z += widths[before];
        switch (group[1]) {
            case 1: add_rows(rows, z, down, up, part[2], terms, width, y_width, 1); break;
            case 2: add_rows(rows, z, down, up, part[2], terms, width, y_width, 2); break;
            case 3: add_rows(rows, z, down, up, part[2], terms, width, y_width, 3); break;
            default: add_rows(rows, z, down, up, part[2], terms, width, y_width, 4);
        }
    }
}
