// The forward pass. Included by kernels.inl, once per instruction set.

// Adds to out[0 .. N vectors) the rows at the samples' corners, weighted. kTail: the last vector has `tail` channels,
// and what lies behind them must not be read. `next`: the samples that will be asked for after these.
template <class V, int N, bool kTail>
void sum_block(const typename V::T *base, const Samples<V> &samples, const Samples<V> &next,
               int64_t count, typename V::T *out, int tail) {
  V sum[4][N];
  GREEDYPRUNE_UNROLL
  for (int k = 0; k < 4; ++k)
    GREEDYPRUNE_UNROLL for (int n = 0; n < N; ++n) sum[k][n] = V::zero();
  for (int64_t i = 0; i < count; ++i) {
    GREEDYPRUNE_UNROLL
    for (int k = 0; k < 4; ++k) {
      const typename V::T *row = base + samples.offset(k)[i];
      fetch<N * sizeof(V)>(base + next.offset(k)[i]);
      const V weight = V::splat(samples.weight(k)[i]);
      GREEDYPRUNE_UNROLL
      for (int n = 0; n < N; ++n) {
        const bool cut = kTail && n == N - 1;
        const V value = cut ? V::load(row + n * V::kLanes, tail) : V::load(row + n * V::kLanes);
        sum[k][n] = sum[k][n].plus(weight, value);
      }
    }
  }
  GREEDYPRUNE_UNROLL
  for (int n = 0; n < N; ++n) {
    const V all = (sum[0][n] + sum[1][n]) + (sum[2][n] + sum[3][n]);
    if (n == N - 1 && tail) {
      all.store(out + n * V::kLanes, tail);
    } else {
      all.store(out + n * V::kLanes);
    }
  }
}

template <class V, int N>
void sum_block(bool cut, const typename V::T *base, const Samples<V> &samples,
               const Samples<V> &next, int64_t count, typename V::T *out, int tail) {
  if (cut) {
    sum_block<V, N, true>(base, samples, next, count, out, tail);
  } else {
    sum_block<V, N, false>(base, samples, next, count, out, tail);
  }
}

// One query of one head: all channels, a block of vectors at a time.
template <class V>
void sum_samples(bool packed, const typename V::T *base, const Samples<V> &samples,
                 const Samples<V> &next, int64_t count, typename V::T *out, int64_t channels) {
  for (int64_t left = channels; left > 0;) {
    const int64_t vectors = (left + V::kLanes - 1) / V::kLanes;
    const int64_t now = vectors < V::kBlock ? vectors : V::kBlock;
    const int tail = now == vectors ? static_cast<int>(left % V::kLanes) : 0;
    const bool cut = tail && !packed;
    switch (now) {
      case 1: sum_block<V, 1>(cut, base, samples, next, count, out, tail); break;
      case 2: sum_block<V, 2>(cut, base, samples, next, count, out, tail); break;
      case 3: sum_block<V, 3>(cut, base, samples, next, count, out, tail); break;
      default: sum_block<V, 4>(cut, base, samples, next, count, out, tail); break;
    }
    base += now * V::kLanes;
    out += now * V::kLanes;
    left -= now * V::kLanes;
  }
}

// Queries whose locations and weights are on their way from memory: they lie a whole token apart, which no processor
// foresees.
constexpr int64_t kAhead = 8;

template <class V>
bool forward(const Problem &p, const typename V::T *value, const typename V::T *locations, const typename V::T *weights,
             typename V::T *out, int64_t begin, int64_t end, Scratch &scratch) {
  using T = typename V::T;
  const int64_t count = p.levels * p.points, step = Lanes<V>::padded(count), row = p.heads * p.channels;
  const bool packed = p.queries * count * 4 > 2 * p.tokens;
  const int64_t stride = packed ? padded<V>(p.channels) : row;
  void *const levels_at = scratch.get(Scratch::kLevels, Levels<V>::bytes(count));
  void *const samples_at = scratch.get(Scratch::kSamples, Samples<V>::bytes(2 * step));
  void *const taken_at = scratch.get(Scratch::kTaken, Taken<V>::bytes(count));
  T *const own =
      static_cast<T *>(scratch.get(Scratch::kValue, (packed ? (p.tokens + 1) * stride : padded<V>(row)) * sizeof(T)));
  if (!levels_at || !samples_at || !taken_at || !own) return false;
  const Levels<V> levels = Levels<V>::in(levels_at, count);
  const Samples<V> both = Samples<V>::in(samples_at, 2 * step);
  const Taken<V> taken = Taken<V>::in(taken_at, count);
  for (int64_t level = 0, first = 0; level < p.levels; ++level) {
    levels.fill(level * p.points, p.points, p.shapes + 2 * level, first);
    first += p.shapes[2 * level] * p.shapes[2 * level + 1];
  }
  clear<V>(packed ? own + p.tokens * stride : own, packed ? stride : padded<V>(row));
  for (int64_t unit = begin; unit < end;) {
    const int64_t image = unit / p.queries / p.heads, head = unit / p.queries % p.heads, from = unit % p.queries;
    const int64_t to = from + end - unit < p.queries ? from + end - unit : p.queries;
    const T *const there = value + image * p.tokens * row + head * p.channels;
    if (packed) pack<V>(there, row, own, stride, p.tokens, p.channels);
    const T *const base = packed ? own : there;
    const int64_t outside = packed ? p.tokens * stride : own - there;
    const auto owner = [&](int64_t query) { return (image * p.queries + query) * p.heads + head; };
    const auto prepare = [&](int64_t query, const Samples<V> &into) {
      const int64_t at = owner(query) * count, later = owner(query + kAhead < to ? query + kAhead : query) * count;
      for (int64_t i = 0; i < count; i += 64 / sizeof(T)) {
        fetch<128>(locations + 2 * (later + i));
        fetch<64>(weights + later + i);
      }
      taken.take(locations + 2 * at, weights + at, count);
      into.place(taken, count, levels);
      into.resolve(count, stride, outside, into.offset(0));
    };
    int64_t half = 0;
    prepare(from, both);
    for (int64_t query = from; query < to; ++query, half = step - half) {
      const Samples<V> samples = both.from(half), next = both.from(step - half);
      if (query + 1 < to) prepare(query + 1, next);
      sum_samples<V>(packed, base, samples, next, count, out + owner(query) * p.channels, p.channels);
    }
    unit += to - from;
  }
  return true;
}
