// The backward pass. Included by kernels.inl, once per instruction set.

// What the samples of a few queries, in one level of one head, leave behind.
template <class V>
struct Bundle {
  using T = typename V::T;
  T *partial;                // [count, 4 corners, lanes]: grad_out times the corner's row, before the lanes are summed
  T *dot;                    // [count, 4]: after
  T *by_x, *by_y, *by_scale;  // [count]: the gradients of location and weight

  static Bundle in(void *memory, int64_t count) {
    T *const at = static_cast<T *>(memory), *const rest = at + count * 4 * (V::kLanes + 1);
    return {at, at + count * 4 * V::kLanes, rest, rest + count, rest + 2 * count};
  }
  static size_t bytes(int64_t count) { return count * (4 * V::kLanes + 7) * sizeof(T); }

  // Gradients from the products with the corners' rows, which are zero outside the image.
  void finish(const Samples<V> &samples, int64_t count, const int64_t *shape) const {
    const T width = static_cast<T>(shape[1]), height = static_cast<T>(shape[0]);
    const T *__restrict d = dot, *__restrict x = samples.x(), *__restrict y = samples.y();
    const T *__restrict scale = samples.scale();
    T *__restrict to_x = by_x, *__restrict to_y = by_y, *__restrict to_scale = by_scale;
    for (int64_t i = 0; i < count; ++i) {
      const T above = d[4 * i + 1] - d[4 * i], below = d[4 * i + 3] - d[4 * i + 2];
      const T upper = d[4 * i] + x[i] * above, lower = d[4 * i + 2] + x[i] * below;
      to_scale[i] = upper + y[i] * (lower - upper);
      to_x[i] = scale[i] * width * (above + y[i] * (below - above));
      to_y[i] = scale[i] * height * (lower - upper);
    }
  }
};

// Samples whose corners are on their way while one is worked on.
constexpr int64_t kSamplesAhead = 8;

// One query, N vectors of channels: adds to the gradients of the rows at its samples' corners, and multiplies these
// rows with grad_out. first: nothing is in `partial` yet. kTail: as in the forward pass. `both`: the samples of this
// bundle and of the next, as a ring of `ring`; this query's start at `at`, and in `partial` at its own beginning.
template <class V, int N, bool kTail>
void spread_block(const typename V::T *value, typename V::T *gradient, const typename V::T *grad_out,
                  const Samples<V> &both, int64_t ring, int64_t at, int64_t count,
                  typename V::T *partial, int tail, bool first) {
  using T = typename V::T;
  V given[N];
  GREEDYPRUNE_UNROLL
  for (int n = 0; n < N; ++n) {
    const bool cut = n == N - 1 && tail;
    given[n] = cut ? V::load(grad_out + n * V::kLanes, tail) : V::load(grad_out + n * V::kLanes);
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t now = at + i, ahead = now + kSamplesAhead < ring ? now + kSamplesAhead : now + kSamplesAhead - ring;
    GREEDYPRUNE_UNROLL
    for (int k = 0; k < 4; ++k) {
      const T *const row = value + both.offset(k)[now];
      T *const target = gradient + both.target(k)[now];
      T *const sum_at = partial + (i * 4 + k) * V::kLanes;
      const V weight = V::splat(both.weight(k)[now]);
      fetch<N * sizeof(V)>(value + both.offset(k)[ahead]);
      fetch<N * sizeof(V)>(gradient + both.target(k)[ahead]);
      V sum = first ? V::zero() : V::load(sum_at);
      GREEDYPRUNE_UNROLL
      for (int n = 0; n < N; ++n) {
        const int64_t c = n * V::kLanes;
        if (kTail && n == N - 1) {
          sum = sum.plus(given[n], V::load(row + c, tail));
          V::load(target + c, tail).plus(weight, given[n]).store(target + c, tail);
        } else {
          sum = sum.plus(given[n], V::load(row + c));
          V::load(target + c).plus(weight, given[n]).store(target + c);
        }
      }
      sum.store(sum_at);
    }
  }
}

template <class V, int N>
void spread_block(bool cut, const typename V::T *value, typename V::T *gradient, const typename V::T *grad_out,
                  const Samples<V> &both, int64_t ring, int64_t at, int64_t count,
                  typename V::T *partial, int tail, bool first) {
  if (cut) {
    spread_block<V, N, true>(value, gradient, grad_out, both, ring, at, count, partial, tail, first);
  } else {
    spread_block<V, N, false>(value, gradient, grad_out, both, ring, at, count, partial, tail, first);
  }
}

template <class V>
void spread_samples(bool packed, const typename V::T *value, typename V::T *gradient, const typename V::T *grad_out,
                    const Samples<V> &both, int64_t ring, int64_t at, int64_t count,
                    typename V::T *partial, int64_t channels) {
  bool first = true;
  for (int64_t left = channels; left > 0; first = false) {
    const int64_t vectors = (left + V::kLanes - 1) / V::kLanes;
    const int64_t now = vectors < 4 ? vectors : 4;
    const int tail = now == vectors ? static_cast<int>(left % V::kLanes) : 0;
    const bool cut = tail && !packed;
    switch (now) {
      case 1: spread_block<V, 1>(cut, value, gradient, grad_out, both, ring, at, count, partial, tail, first); break;
      case 2: spread_block<V, 2>(cut, value, gradient, grad_out, both, ring, at, count, partial, tail, first); break;
      case 3: spread_block<V, 3>(cut, value, gradient, grad_out, both, ring, at, count, partial, tail, first); break;
      default: spread_block<V, 4>(cut, value, gradient, grad_out, both, ring, at, count, partial, tail, first); break;
    }
    value += now * V::kLanes;
    gradient += now * V::kLanes;
    grad_out += now * V::kLanes;
    left -= now * V::kLanes;
  }
}

template <class V>
bool backward(const Problem &p, const typename V::T *grad_out, const typename V::T *value,
              const typename V::T *locations, const typename V::T *weights, typename V::T *grad_value,
              typename V::T *grad_locations, typename V::T *grad_weights, int64_t task, Scratch &scratch) {
  using T = typename V::T;
  const int64_t level = task / (p.batch * p.heads), image = task / p.heads % p.batch, head = task % p.heads;
  const int64_t *const shape = p.shapes + 2 * level;
  int64_t start = 0;
  for (int64_t i = 0; i < level; ++i) start += p.shapes[2 * i] * p.shapes[2 * i + 1];
  const int64_t tokens = shape[0] * shape[1], row = p.heads * p.channels;
  const bool packed = p.queries * p.points * 4 > 2 * tokens;
  const int64_t stride = packed ? padded<V>(p.channels) : row;
  const int64_t together = p.points < 16 ? 32 / p.points : 2, count = Lanes<V>::padded(together * p.points);

  const size_t rows_bytes = (packed ? (tokens + 1) * stride : padded<V>(row)) * sizeof(T);
  void *const levels_at = scratch.get(Scratch::kLevels, Levels<V>::bytes(count));
  void *const samples_at = scratch.get(Scratch::kSamples, Samples<V>::bytes(2 * count));
  void *const bundle_at = scratch.get(Scratch::kSums, Bundle<V>::bytes(count));
  T *const own_value = static_cast<T *>(scratch.get(Scratch::kValue, rows_bytes));
  T *const own_gradient = static_cast<T *>(scratch.get(Scratch::kGradient, rows_bytes));
  if (!levels_at || !samples_at || !bundle_at || !own_value || !own_gradient) return false;
  const Levels<V> levels = Levels<V>::in(levels_at, count);
  const Samples<V> both = Samples<V>::in(samples_at, 2 * count);
  const Bundle<V> bundle = Bundle<V>::in(bundle_at, count);
  levels.fill(0, count, shape, 0);

  const int64_t first_row = (image * p.tokens + start) * row + head * p.channels;
  const T *from = value + first_row;
  T *to = grad_value + first_row;
  int64_t outside = tokens * stride, sink = outside;
  if (packed) {
    pack<V>(from, row, own_value, stride, tokens, p.channels);
    clear<V>(own_value + outside, stride);
    clear<V>(own_gradient, (tokens + 1) * stride);
    from = own_value;
    to = own_gradient;
  } else {
    clear<V>(own_value, padded<V>(row));
    clear_rows(to, row, tokens, p.channels);
    outside = own_value - from;
    sink = own_gradient - to;
  }

  const auto owner = [&](int64_t query) { return (image * p.queries + query) * p.heads + head; };
  // Places the samples of the bundle that begins with `query` into the half of the ring from `at` on.
  const auto prepare = [&](int64_t query, int64_t at) {
    const int64_t now = query + together < p.queries ? together : p.queries - query;
    for (int64_t j = 0; j < now; ++j) {
      const int64_t from_at = (owner(query + j) * p.levels + level) * p.points;
      const int64_t later = query + j + 2 * together < p.queries ? query + j + 2 * together : query + j;
      const int64_t later_at = (owner(later) * p.levels + level) * p.points;
      for (int64_t i = 0; i < p.points; i += 64 / sizeof(T)) {
        fetch<128>(locations + 2 * (later_at + i));
        fetch<64>(weights + later_at + i);
      }
      for (int64_t c = 0; c < p.channels; c += 64 / sizeof(T)) fetch<64>(grad_out + owner(query + j) * p.channels + c);
      both.from(at + j * p.points).take(locations + 2 * from_at, weights + from_at, p.points);
    }
    const Samples<V> into = both.from(at);
    into.place(now * p.points, levels);
    into.resolve(now * p.points, stride, outside, into.offset(0));
    into.resolve(now * p.points, stride, sink, into.target(0));
  };

  if (p.queries) prepare(0, 0);
  for (int64_t query = 0, half = 0; query < p.queries; query += together, half = count - half) {
    if (query + together < p.queries) prepare(query + together, count - half);
    const int64_t now = query + together < p.queries ? together : p.queries - query, all = now * p.points;
    for (int64_t j = 0; j < now; ++j) {
      spread_samples<V>(packed, from, to, grad_out + owner(query + j) * p.channels, both, 2 * count,
                        half + j * p.points, p.points, bundle.partial + j * p.points * 4 * V::kLanes, p.channels);
    }
    V::sums(bundle.partial, 4 * all, bundle.dot);
    bundle.finish(both.from(half), all, shape);
    for (int64_t j = 0, i = 0; j < now; ++j) {
      const int64_t at = (owner(query + j) * p.levels + level) * p.points;
      for (int64_t point = 0; point < p.points; ++point, ++i) {
        grad_locations[2 * (at + point)] = bundle.by_x[i];
        grad_locations[2 * (at + point) + 1] = bundle.by_y[i];
        grad_weights[at + point] = bundle.by_scale[i];
      }
    }
  }
  if (packed) unpack<V>(to, stride, grad_value + first_row, row, tokens, p.channels);
  return true;
}
