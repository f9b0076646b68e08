// The forward pass. Included by kernels.inl, once per instruction set.

// Adds to out[0 .. N vectors) the rows at the samples' corners, weighted. kTail: the last vector has `tail` channels,
// and what lies behind them must not be read.
template <class V, int N, bool kTail>
void sum_block(const typename V::T *base, const Samples<typename V::T> &samples, int64_t count, typename V::T *out,
               int tail) {
  V sum[4][N];
  GREEDYPRUNE_UNROLL
  for (int k = 0; k < 4; ++k)
    GREEDYPRUNE_UNROLL for (int n = 0; n < N; ++n) sum[k][n] = V::zero();
  for (int64_t i = 0; i < count; ++i) {
    GREEDYPRUNE_UNROLL
    for (int k = 0; k < 4; ++k) {
      const typename V::T *row = base + samples.offset[k][i];
      const V weight = V::splat(samples.weight[k][i]);
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
void sum_block(bool cut, const typename V::T *base, const Samples<typename V::T> &samples, int64_t count,
               typename V::T *out, int tail) {
  if (cut) {
    sum_block<V, N, true>(base, samples, count, out, tail);
  } else {
    sum_block<V, N, false>(base, samples, count, out, tail);
  }
}

// One query of one head: all channels, a block of vectors at a time.
template <class V>
void sum_samples(bool packed, const typename V::T *base, const Samples<typename V::T> &samples, int64_t count,
                 typename V::T *out, int64_t channels) {
  for (int64_t left = channels; left > 0;) {
    const int64_t vectors = (left + V::kLanes - 1) / V::kLanes;
    const int64_t now = vectors < V::kBlock ? vectors : V::kBlock;
    const int tail = now == vectors ? static_cast<int>(left % V::kLanes) : 0;
    const bool cut = tail && !packed;
    switch (now) {
      case 1: sum_block<V, 1>(cut, base, samples, count, out, tail); break;
      case 2: sum_block<V, 2>(cut, base, samples, count, out, tail); break;
      case 3: sum_block<V, 3>(cut, base, samples, count, out, tail); break;
      default: sum_block<V, 4>(cut, base, samples, count, out, tail); break;
    }
    base += now * V::kLanes;
    out += now * V::kLanes;
    left -= now * V::kLanes;
  }
}

template <class V>
bool forward(const Problem &p, const typename V::T *value, const typename V::T *locations, const typename V::T *weights,
             typename V::T *out, int64_t begin, int64_t end, Scratch &scratch) {
  using T = typename V::T;
  const int64_t count = p.levels * p.points, row = p.heads * p.channels;
  const bool packed = p.queries * count * 4 > 2 * p.tokens;
  const int64_t stride = packed ? padded<V>(p.channels) : row;
  void *const levels_at = scratch.get(Scratch::kLevels, Levels<T>::bytes(count));
  void *const samples_at = scratch.get(Scratch::kSamples, Samples<T>::bytes(count));
  T *const own =
      static_cast<T *>(scratch.get(Scratch::kValue, (packed ? (p.tokens + 1) * stride : padded<V>(row)) * sizeof(T)));
  if (!levels_at || !samples_at || !own) return false;
  const Levels<T> levels = Levels<T>::in(levels_at, count);
  Samples<T> samples = Samples<T>::in(samples_at, count);
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
    for (int64_t query = from; query < to; ++query) {
      const int64_t at = (image * p.queries + query) * p.heads + head;
      samples.place(locations + at * count * 2, weights + at * count, count, levels);
      samples.resolve(count, stride, outside, samples.offset);
      sum_samples<V>(packed, base, samples, count, out + at * p.channels, p.channels);
    }
    unit += to - from;
  }
  return true;
}
