// Products with weights in panels, attention of one query; norms, gates and losses there and back; in float32. Compiled
// on first use by build.py.
//
// What PyTorch does in several passes over memory, where it has no operation of its own, is done in one. Decoding few
// slots per pass reads all weights and the whole cache for little arithmetic. PyTorch's libraries seem to read and
// compute in turns there; here the next panel is fetched while one is multiplied (benchmarks/NOTES.md).
#include <cmath>
#include <limits>

// WIDTH floats are a vector, a tile has up to TALL rows and PANEL outputs: its sums fill the registers.
constexpr int PANEL = 2 * WIDTH, LINE = 64;  // LINE: bytes of memory that are fetched at once
constexpr long NEAR = 32 * 1024;  // floats that a core keeps near
constexpr long FEW = 64;  // rows that are summed before their sum is added to others

typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4)));

struct Part {
    const float *x, *w;
    float* y;
    const char* next;  // what to fetch meanwhile, `share` bytes per input
    long inputs, outputs, share;
};

// ROWS rows of x (inputs) times a panel (inputs, PANEL).
template <int ROWS>
static void tile(const Part& part) {
    Vector sums[ROWS][2] = {};
    for (long i = 0; i < part.inputs; i++) {
        __builtin_prefetch(part.next + i * part.share, 0, 2);
        if (sizeof(float) * PANEL > LINE) __builtin_prefetch(part.next + i * part.share + LINE, 0, 2);
        const Vector left = *(const Vector*)(part.w + i * PANEL), right = *(const Vector*)(part.w + i * PANEL + WIDTH);
        for (int r = 0; r < ROWS; r++) {
            const float factor = part.x[r * part.inputs + i];
            sums[r][0] += factor * left;
            sums[r][1] += factor * right;
        }
    }
    for (int r = 0; r < ROWS; r++) {
        *(Vector*)(part.y + r * part.outputs) = sums[r][0];
        *(Vector*)(part.y + r * part.outputs + WIDTH) = sums[r][1];
    }
}

template <int ROWS = TALL>
static void tile_of(long rows, const Part& part) {
    if constexpr (ROWS > 1)
        if (rows < ROWS) return tile_of<ROWS - 1>(rows, part);
    tile<ROWS>(part);
}

extern "C" int panel() { return PANEL; }

// y (rows, outputs) = x (rows, inputs) times w (outputs / PANEL, inputs, PANEL); rows in blocks that stay near.
extern "C" void product(const float* x, const float* w, float* y, long rows, long inputs, long outputs, int threads) {
    const long tiles = (rows + TALL - 1) / TALL, size = inputs * PANEL, blocks = tiles * TALL * inputs / NEAR + 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (long b = 0; b < blocks; b++) {
        const long begin = tiles * b / blocks, end = tiles * (b + 1) / blocks, count = end - begin;
#pragma omp for nowait
        for (long p = 0; p < outputs / PANEL; p++)
            for (long t = begin; t < end; t++) {
                const long first = rows * t / tiles, last = rows * (t + 1) / tiles;
                const float* next = w + (p + 1) * size + size * (t - begin) / count;
                tile_of(last - first, {x + first * inputs, w + p * size, y + first * outputs + p * PANEL,
                                       (const char*)next, inputs, outputs, (long)sizeof(float) * PANEL / count});
            }
    }
}

// out (heads, width) = softmax(q k / sqrt(width)) v of one query (width) per head; k and v (slots, width) of the heads
// lie `stride` apart. `weights` is room for (heads, slots).
extern "C" void attention(const float* q, const float* k, const float* v, float* out, float* weights, long heads,
                          long slots, long width, long stride, int threads) {
    const float scale = 1 / std::sqrt((float)width);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long h = 0; h < heads; h++) {
        const float *query = q + h * width, *keys = k + h * stride, *values = v + h * stride;
        float *mixed = out + h * width, *weight = weights + h * slots;
        float most = std::numeric_limits<float>::lowest(), sum = 0;
        for (long s = 0; s < slots; s++) {
            float score = 0;
            for (long e = 0; e < width; e++) score += query[e] * keys[s * width + e];
            weight[s] = score * scale;
            most = weight[s] > most ? weight[s] : most;
        }
        for (long s = 0; s < slots; s++) sum += weight[s] = std::exp(weight[s] - most);
        for (long e = 0; e < width; e++) mixed[e] = 0;
        for (long s = 0; s < slots; s++)
            for (long e = 0; e < width; e++) mixed[e] += weight[s] / sum * values[s * width + e];
    }
}

// y (rows, width) = x / sqrt(mean(x^2) + eps) * w; the factor of each row is kept in `inverse` (rows).
extern "C" void rms_norm(const float* x, const float* w, float* y, float* inverse, long rows, long width, float eps,
                         int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const float* in = x + r * width;
        float sum = 0;
        for (long i = 0; i < width; i++) sum += in[i] * in[i];
        const float factor = inverse[r] = 1 / std::sqrt(sum / width + eps);
        for (long i = 0; i < width; i++) y[r * width + i] = in[i] * factor * w[i];
    }
}

// Adds up the rows of a gradient in two levels, as sums of many numbers of float32 must be.
struct Sum {
    float *all, *few;
    long width, rows = 0;
    Sum(float* all, long width) : all(all), few(new float[width]()), width(width) {}
    ~Sum() {
        flush();
        delete[] few;
    }
    void flush() {
        for (long i = 0; i < width; i++) all[i] += few[i], few[i] = 0;
        rows = 0;
    }
    float* row() {
        if (++rows > FEW) flush();
        return few;
    }
};

// dx of one row of rms_norm, by g, the gradient of its result; adds to dw.
static void norm_back(const float* g, const float* in, const float* w, float factor, float* dx, float* dw, long width) {
    float dot = 0;
    for (long i = 0; i < width; i++) dot += g[i] * w[i] * in[i];
    const float pull = dot * factor * factor / width;
    for (long i = 0; i < width; i++) {
        dx[i] = factor * (g[i] * w[i] - in[i] * pull);
        dw[i] += g[i] * in[i] * factor;
    }
}

// Gradients of the same: dx (rows, width), and dw (threads, width), zeros before, whose rows are to be summed.
extern "C" void rms_norm_back(const float* dy, const float* x, const float* w, const float* inverse, float* dx, float* dw,
                              long rows, long width, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long t = 0; t < threads; t++) {
        Sum sum(dw + t * width, width);
        for (long r = rows * t / threads; r < rows * (t + 1) / threads; r++)
            norm_back(dy + r * width, x + r * width, w, inverse[r], dx + r * width, sum.row(), width);
    }
}

// y (rows, width) = silu(gate) * up of x (rows, 2 width), which holds the gates before the others.
extern "C" void swiglu(const float* x, float* y, long rows, long width, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const float *gate = x + 2 * r * width, *up = gate + width;
        for (long i = 0; i < width; i++) y[r * width + i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    }
}

// Gradient dx (rows, 2 width) of the same.
extern "C" void swiglu_back(const float* dy, const float* x, float* dx, long rows, long width, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const float *gate = x + 2 * r * width, *up = gate + width, *g = dy + r * width;
        float *dgate = dx + 2 * r * width, *dup = dgate + width;
        for (long i = 0; i < width; i++) {
            const float share = 1 / (1 + std::exp(-gate[i]));
            dgate[i] = g[i] * up[i] * share * (1 + gate[i] * (1 - share));
            dup[i] = g[i] * gate[i] * share;
        }
    }
}

// loss (rows) = log(sum(exp(x))) - x[truth] of x (rows, width); the logarithms are kept in `logs` (rows).
extern "C" void cross_entropy(const float* x, const long* truth, float* loss, float* logs, long rows, long width,
                              int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        const float* in = x + r * width;
        float most = in[0], sum = 0;
        for (long i = 1; i < width; i++) most = in[i] > most ? in[i] : most;
        for (long i = 0; i < width; i++) sum += std::exp(in[i] - most);
        logs[r] = most + std::log(sum);
        loss[r] = logs[r] - in[truth[r]];
    }
}

// Puts the gradient of the same in the place of x, by g (rows), that of the losses.
extern "C" void cross_entropy_back(float* x, const long* truth, const float* logs, const float* g, long rows, long width,
                                   int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long r = 0; r < rows; r++) {
        float* in = x + r * width;
        for (long i = 0; i < width; i++) in[i] = g[r] * std::exp(in[i] - logs[r]);
        in[truth[r]] -= g[r];
    }
}

// Queries, keys and values of attention: q, k, v (batch, heads, slots, width) of x (batch, slots, 3, heads, width), the
// first two normalised as by rms_norm with weights w (2, width), unless that is null, and pairs of features turned by
// `angles` (batch or 1, slots, width / 2, cosine and sine), which lie `stride` apart. `inverse` (batch, slots, 2, heads).
extern "C" void heads(const float* x, const float* w, const float* angles, float* q, float* k, float* v, float* inverse,
                      long batch, long slots, long heads, long width, long stride, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long n = 0; n < batch * slots; n++) {
        const long b = n / slots, s = n % slots;
        const float* turn = angles + b * stride + s * width;
        for (long h = 0; h < heads; h++) {
            const long place = ((b * heads + h) * slots + s) * width;
            for (int part = 0; part < 2; part++) {
                const float *in = x + ((n * 3 + part) * heads + h) * width, *weight = w + part * width;
                float *out = (part ? k : q) + place, sum = 0, factor = 1;
                if (w) {
                    for (long i = 0; i < width; i++) sum += in[i] * in[i];
                    factor = inverse[(n * 2 + part) * heads + h] = 1 / std::sqrt(sum / width + eps);
                }
                for (long i = 0; i < width; i += 2) {
                    const float a = in[i] * factor * (w ? weight[i] : 1), c = in[i + 1] * factor * (w ? weight[i + 1] : 1);
                    out[i] = a * turn[i] - c * turn[i + 1];
                    out[i + 1] = a * turn[i + 1] + c * turn[i];
                }
            }
            const float* in = x + ((n * 3 + 2) * heads + h) * width;
            for (long i = 0; i < width; i++) v[place + i] = in[i];
        }
    }
}

// Gradients of the same: dx like x, and dw (threads, 2, width), zeros before. `room` (threads, width).
extern "C" void heads_back(const float* dq, const float* dk, const float* dv, const float* x, const float* w,
                           const float* angles, const float* inverse, float* dx, float* dw, float* room, long batch,
                           long slots, long heads, long width, long stride, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long t = 0; t < threads; t++) {
        Sum sums[2] = {{dw + 2 * t * width, width}, {dw + (2 * t + 1) * width, width}};
        float* g = room + t * width;
        for (long n = batch * slots * t / threads; n < batch * slots * (t + 1) / threads; n++) {
            const long b = n / slots, s = n % slots;
            const float* turn = angles + b * stride + s * width;
            for (long h = 0; h < heads; h++) {
                const long place = ((b * heads + h) * slots + s) * width;
                for (int part = 0; part < 2; part++) {
                    const long at = ((n * 3 + part) * heads + h) * width;
                    const float* d = (part ? dk : dq) + place;
                    float* back = w ? g : dx + at;
                    for (long i = 0; i < width; i += 2) {
                        back[i] = d[i] * turn[i] + d[i + 1] * turn[i + 1];
                        back[i + 1] = d[i + 1] * turn[i] - d[i] * turn[i + 1];
                    }
                    if (w)
                        norm_back(g, x + at, w + part * width, inverse[(n * 2 + part) * heads + h], dx + at,
                                  sums[part].row(), width);
                }
                float* out = dx + ((n * 3 + 2) * heads + h) * width;
                for (long i = 0; i < width; i++) out[i] = dv[place + i];
            }
        }
    }
}
