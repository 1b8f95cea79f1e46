// Products with weights in panels, and attention of one query, in float32; compiled on first use by kernels.py.
//
// Decoding few slots per pass reads all weights and the whole cache for little arithmetic. PyTorch's libraries seem to
// read and compute in turns there; here the next panel is fetched while one is multiplied (benchmarks/NOTES.md).
#include <cmath>
#include <limits>

// WIDTH floats are a vector, a tile has up to TALL rows and PANEL outputs: its sums fill the registers.
constexpr int PANEL = 2 * WIDTH, LINE = 64;  // LINE: bytes of memory that are fetched at once
constexpr long NEAR = 32 * 1024;  // floats that a core keeps near

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
