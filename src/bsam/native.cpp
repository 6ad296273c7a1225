// The algorithm's lines for a CPU: each one pass over all tensors of a list, whatever their sizes.
//
// The formulas are those of algorithm.py, the noise is that of noise.py. What is read may be what is
// written: an element depends on that same element alone.

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <type_traits>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))  // or a loop that calls it stays scalar

namespace {

struct bfloat16 {
  uint16_t bits;
};

INLINE float wide(float x) { return x; }
INLINE double wide(double x) { return x; }

INLINE float wide(bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE void store(float& place, float x) { place = x; }
INLINE void store(double& place, double x) { place = x; }

INLINE void store(bfloat16& place, float x) {  // to the nearest, ties to even; a NaN stays one
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = bits + 0x7FFF + ((bits >> 16) & 1);
  place.bits = uint16_t(x == x ? rounded >> 16 : 0x7FC0);
}

template <class Weight>
using State = std::conditional_t<std::is_same_v<Weight, double>, double, float>;

// ---------------------------------------------------------------------------------- the noise

constexpr int64_t PAIRS = 1024, BLOCK = 2 * PAIRS, RUN = 64;
constexpr uint32_t QUARTER = 1u << 30;  // of a turn

INLINE uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

template <class Real>
INLINE Real polynomial(Real, Real constant) {
  return constant;
}

template <class Real, class... Rest>
INLINE Real polynomial(Real x, Real constant, Rest... rest) {
  return constant + x * polynomial(x, rest...);
}

INLINE float radius(uint32_t word, float) {
  constexpr int32_t SQRT_HALF = 0x3F3504F3;  // its bits
  const float x = float(word) + 0.5f;
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits -= SQRT_HALF;
  const float exponent = float((bits >> 23) - 32);
  bits = (bits & 0x7FFFFF) + SQRT_HALF;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  f -= 1.0f;
  const float rest = polynomial(f, 0.3333333118f, -0.2499999696f, 0.2000071575f, -0.1666780232f, 0.1424905765f,
                                -0.1242568731f, 0.1168541990f, -0.1147973396f, 0.0697161168f);
  const float log = f - 0.5f * f * f + f * f * f * rest;
  return std::sqrt((log + exponent * 0.69314718056f) * -2.0f);
}

INLINE float cosine(uint32_t word, float) {
  const float x = 0.5f - std::fabs(float(int32_t(word)) * 0x1p-31f);  // from half turns, -1 to 1
  return x * polynomial(x * x, 3.1415926535f, -5.1677127646f, 2.5501633189f, -0.5992521978f, 0.0820504018f,
                        -0.0070283864f);
}

INLINE double radius(uint32_t word, double) { return std::sqrt(std::log((word + 0.5) * 0x1p-32) * -2.0); }

INLINE double cosine(uint32_t word, double) { return std::cos(word * (2.0 * 3.14159265358979323846 * 0x1p-32)); }

template <class Real>
class Noise {  // the block of the stream that was asked for last
 public:
  // Call use(values, begin, count) for the runs that make up so many numbers of a block, from within
  // on: as soon as a run is drawn, as memory is fetched for it while the next is being drawn.
  template <class Use>
  void hand_out(uint64_t key, int64_t number, int64_t within, int64_t count, Use use) {
    if (number == number_) return use(values_ + within, 0, count);
    const auto clipped = [&](int64_t begin, int64_t end) {
      begin = std::max(begin, within), end = std::min(end, within + count);
      if (begin < end) use(values_ + begin, begin - within, end - begin);
    };
    for (int64_t i = 0; i < PAIRS; i += RUN) {
      draw(key, PAIRS * number, i);
      clipped(i, i + RUN);
    }
    clipped(PAIRS, BLOCK);
    number_ = number;
  }

 private:
  INLINE void draw(uint64_t key, int64_t first, int64_t begin) {
    constexpr uint64_t GAMMA = 0x9E3779B97F4A7C15;
    alignas(64) uint32_t upper[RUN], lower[RUN];
#pragma omp simd
    for (int64_t i = 0; i < RUN; ++i) {
      const uint64_t z = mix(key + GAMMA * (uint64_t(first + begin + i) + 1));
      upper[i] = uint32_t(z >> 32);
      lower[i] = uint32_t(z);
    }
#pragma omp simd
    for (int64_t i = 0; i < RUN; ++i) {
      const Real r = radius(upper[i], Real());
      values_[begin + i] = r * cosine(lower[i], Real());
      values_[begin + i + PAIRS] = r * cosine(lower[i] - QUARTER, Real());
    }
  }

  int64_t number_ = -1;
  alignas(64) Real values_[BLOCK];
};

// ---------------------------------------------------------------------------------- the threads

struct Call {
  int64_t tensors;
  const int64_t* counts;  // of each tensor's elements
  void* const* places;    // of all tensors of the first list, then of the second, ...
  const double* numbers;  // hyperparameters
  int64_t threads;
  const int64_t* first;  // for noise: the number in the stream of each tensor's first element
  uint64_t key;          // of the stream
  bool* done;            // set at the end

  template <class Real>
  Real* place(int list, int64_t tensor) const {
    return static_cast<Real*>(places[list * tensors + tensor]);
  }

  int64_t total() const { return std::accumulate(counts, counts + tensors, int64_t(0)); }
};

constexpr int64_t WORTH_A_THREAD = 1 << 15, CACHED = 1 << 20;  // elements

// Call work(tensor, begin, end) on each thread for its equal share of all elements laid end to end.
template <class MakeWork>
void share(const Call& call, MakeWork make_work) {
  const int64_t total = call.total();
  const int64_t threads = std::clamp<int64_t>(total / WORTH_A_THREAD, 1, call.threads);
#pragma omp parallel num_threads(int(threads))
  {
    auto work = make_work();
    const int64_t sharers = omp_get_num_threads(), me = omp_get_thread_num();
    const auto edge = [&](int64_t i) { return i == sharers ? total : total / sharers * i / BLOCK * BLOCK; };
    const int64_t begin = edge(me), end = edge(me + 1);
    for (int64_t t = 0, start = 0; t < call.tensors && start < end; start += call.counts[t++]) {
      const int64_t from = std::max<int64_t>(begin - start, 0), to = std::min(end - start, call.counts[t]);
      if (from < to) work(t, from, to);
    }
#ifdef __SSE2__
    _mm_sfence();  // what put stored is there for the other threads, too
#endif
  }
  *call.done = true;
}

// ---------------------------------------------------------------------------------- the lines

// Copy a run. Past the cache, if all of them are more than a cache holds: a store into the cache
// would first fetch what it overwrites.
template <class Real>
INLINE void put(Real* place, const Real* values, int64_t count, bool past_cache) {
#ifdef __SSE2__
  constexpr int64_t STEP = 16 / sizeof(Real);
  for (; past_cache && count && reinterpret_cast<uintptr_t>(place) % 16; --count) *place++ = *values++;
  for (; past_cache && count >= STEP; count -= STEP, place += STEP, values += STEP) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(place),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
  }
#endif
  std::copy_n(values, count, place);
}

// Write weights from begin to end, of which line(run, i, count) makes those from i on.
template <class Weight, class Line>
INLINE void write(Weight* weights, int64_t begin, int64_t end, bool past_cache, Line line) {
  alignas(64) Weight run[RUN];
  for (; begin < end; begin += RUN) {
    const int64_t count = std::min(RUN, end - begin);
    line(run, begin, count);
    put(weights + begin, run, count, past_cache);
  }
}

template <class Weight>
INLINE bool are_finite(const Weight* values, int64_t count) {  // NaN and infinity times zero are not zero
  State<Weight> zero = 0;
#pragma omp simd reduction(+ : zero)
  for (int64_t i = 0; i < count; ++i) zero += wide(values[i]) * 0;
  return zero == 0;
}

template <class Weight>
INLINE void move_to_draw(Weight* weights, const Weight* mean, const State<Weight>* s, const State<Weight>* noise,
                  State<Weight> num_data, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) store(weights[i], wide(mean[i]) + noise[i] / std::sqrt(num_data * s[i]));
}

// lists: weights, mean, s; numbers: N; with keep the mean is where the weights are, and is copied
template <class Weight, bool keep>
void sample_stream(const Call& call) {
  using Real = State<Weight>;
  const bool past_cache = call.total() > CACHED;
  share(call, [&] {
    return [&, noise = Noise<Real>()](int64_t t, int64_t begin, int64_t end) mutable {
      const auto weights = call.place<Weight>(0, t), mean = call.place<Weight>(1, t);
      const auto s = call.place<Real>(2, t);
      while (begin < end) {
        const int64_t element = call.first[t] + begin, within = element % BLOCK;
        const int64_t count = std::min(end - begin, BLOCK - within);
        noise.hand_out(call.key, element / BLOCK, within, count, [&](const Real* drawn, int64_t at, int64_t run) {
          at += begin;
          if (keep) put(mean + at, weights + at, run, past_cache);
          move_to_draw(weights + at, (keep ? weights : mean) + at, s + at, drawn, Real(call.numbers[0]), run);
        });
        begin += count;
      }
    };
  });
}

template <class Weight>  // lists: weights, mean, noise, s; numbers: N
void sample(const Call& call) {
  using Real = State<Weight>;
  share(call, [&] {
    return [&](int64_t t, int64_t begin, int64_t end) {
      move_to_draw(call.place<Weight>(0, t) + begin, call.place<Weight>(1, t) + begin,
                   call.place<Real>(3, t) + begin, call.place<Real>(2, t) + begin, Real(call.numbers[0]),
                   end - begin);
    };
  });
}

// The lines that read the first gradients also tell, as done, whether all of them are finite.

// lists: weights, mean, gradients, s; numbers: rho; with scaled also scales, and this sub-batch's share
template <class Weight, bool scaled>
void perturb_by(const Call& call) {
  using Real = State<Weight>;
  const bool past_cache = call.total() > CACHED;
  std::atomic<bool> finite = true;
  share(call, [&] {
    return [&](int64_t t, int64_t begin, int64_t end) {
      const auto weights = call.place<Weight>(0, t), mean = call.place<Weight>(1, t);
      const auto gradients = call.place<Weight>(2, t);
      const auto s = call.place<Real>(3, t), scales = scaled ? call.place<Real>(4, t) : nullptr;
      const Real rho = Real(call.numbers[0]), part = scaled ? Real(call.numbers[1]) : 0;
      const bool all = scaled && call.numbers[1] == 1.0;  // whatever scales hold
      bool now = true;
      write(weights, begin, end, past_cache, [&](Weight* run, int64_t at, int64_t count) {
#pragma omp simd
        for (int64_t k = 0; k < count; ++k) {
          const int64_t i = at + k;
          const Real gradient = wide(gradients[i]);
          store(run[k], wide(mean[i]) + gradient * rho / s[i]);
          if constexpr (scaled) {
            const Real scale = std::sqrt(s[i]) * std::fabs(gradient);
            scales[i] = all ? scale : scales[i] + (scale - scales[i]) * part;
          }
        }
        now &= are_finite(gradients + at, count);
      });
      if (!now) finite = false;
    };
  });
  *call.done = finite;
}

// lists: weights, mean, exp_avg, s, gradients, and scales or the first gradients, which tell them;
// numbers: lr, 1 - beta1, 1 - beta2, weight_decay, damping + weight_decay, whether precision is first
template <class Weight, class Scale, bool scaled>
void update_by(const Call& call) {
  using Real = State<Weight>;
  const bool past_cache = call.total() > CACHED;
  share(call, [&] {
    return [&](int64_t t, int64_t begin, int64_t end) {
      const auto weights = call.place<Weight>(0, t), mean = call.place<Weight>(1, t);
      const auto exp_avg = call.place<Real>(2, t), s = call.place<Real>(3, t);
      const auto gradients = call.place<Weight>(4, t);
      const auto scales = call.place<Scale>(5, t);
      const double* numbers = call.numbers;
      const Real lr = Real(numbers[0]), momentum_share = Real(numbers[1]), precision_share = Real(numbers[2]);
      const Real weight_decay = Real(numbers[3]), floor = Real(numbers[4]);
      const bool precision_first = numbers[5] != 0.0;
      write(weights, begin, end, past_cache, [&](Weight* run, int64_t at, int64_t count) {
#pragma omp simd
        for (int64_t k = 0; k < count; ++k) {
          const int64_t i = at + k;
          const Real decayed = wide(gradients[i]) + wide(mean[i]) * weight_decay;
          const Real momentum = exp_avg[i] + (decayed - exp_avg[i]) * momentum_share;
          const Real scale = scaled ? wide(scales[i]) : std::sqrt(s[i]) * std::fabs(wide(scales[i]));
          const Real precision = s[i] + (scale + floor - s[i]) * precision_share;
          store(run[k], wide(mean[i]) - momentum / (precision_first ? precision : s[i]) * lr);
          exp_avg[i] = momentum;
          s[i] = precision;
        }
      });
    };
  });
}

template <class Weight>  // lists: gradients
void all_finite(const Call& call) {
  std::atomic<bool> finite = true;
  share(call, [&] {
    return [&](int64_t t, int64_t begin, int64_t end) {
      const auto gradients = call.place<Weight>(0, t);
      if (!are_finite(gradients + begin, end - begin)) finite = false;
    };
  });
  *call.done = finite;
}

}  // namespace

#define LINES(type)                                                                                    \
  extern "C" void keep_and_sample_##type(const Call* call) { sample_stream<type, true>(*call); }       \
  extern "C" void sample_stream_##type(const Call* call) { sample_stream<type, false>(*call); }        \
  extern "C" void sample_##type(const Call* call) { sample<type>(*call); }                             \
  extern "C" void all_finite_##type(const Call* call) { all_finite<type>(*call); }                     \
  extern "C" void perturb_##type(const Call* call) { perturb_by<type, false>(*call); }                 \
  extern "C" void perturb_and_scale_##type(const Call* call) { perturb_by<type, true>(*call); }        \
  extern "C" void update_##type(const Call* call) { update_by<type, State<type>, true>(*call); }       \
  extern "C" void update_by_gradients_##type(const Call* call) { update_by<type, type, false>(*call); }

LINES(float)
LINES(double)
LINES(bfloat16)
