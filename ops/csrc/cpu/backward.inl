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
constexpr int64_t kSamplesAhead = 5;

// One query, N vectors of channels: adds to the gradients of the rows at its samples' corners, and multiplies these
// rows with grad_out. first: nothing is in `partial` yet. kTail: as in the forward pass. `both`: the samples of this
// bundle and of the next, as a ring of `ring`; this query's start at `at`, and in `partial` at its own beginning.
// shared: value and gradient have the same offsets.
template <class V, int N, bool kTail>
void spread_block(const typename V::T *value, typename V::T *gradient, const typename V::T *grad_out,
                  const Samples<V> &both, int64_t ring, int64_t at, int64_t count,
                  typename V::T *partial, int tail, bool first, bool shared) {
  using T = typename V::T;
  V given[N];
  GREEDYPRUNE_UNROLL
  for (int n = 0; n < N; ++n) {
    const bool cut = n == N - 1 && tail;
    given[n] = cut ? V::load(grad_out + n * V::kLanes, tail) : V::load(grad_out + n * V::kLanes);
  }
  const int64_t *const targets = shared ? both.offset(0) : both.target(0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t now = at + i, ahead = now + kSamplesAhead < ring ? now + kSamplesAhead : now + kSamplesAhead - ring;
    GREEDYPRUNE_UNROLL
    for (int k = 0; k < 4; ++k) {
      const T *const row = value + both.offset(k)[now];
      T *const target = gradient + targets[k * both.step + now];
      T *const sum_at = partial + (i * 4 + k) * V::kLanes;
      const V weight = V::splat(both.weight(k)[now]);
      fetch<N * sizeof(V)>(value + both.offset(k)[ahead]);
      fetch<N * sizeof(V)>(gradient + targets[k * both.step + ahead]);
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
                  typename V::T *partial, int tail, bool first, bool shared) {
  if (cut) {
    spread_block<V, N, true>(value, gradient, grad_out, both, ring, at, count, partial, tail, first, shared);
  } else {
    spread_block<V, N, false>(value, gradient, grad_out, both, ring, at, count, partial, tail, first, shared);
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
      case 1: spread_block<V, 1>(cut, value, gradient, grad_out, both, ring, at, count, partial, tail, first, packed); break;
      case 2: spread_block<V, 2>(cut, value, gradient, grad_out, both, ring, at, count, partial, tail, first, packed); break;
      case 3: spread_block<V, 3>(cut, value, gradient, grad_out, both, ring, at, count, partial, tail, first, packed); break;
      default: spread_block<V, 4>(cut, value, gradient, grad_out, both, ring, at, count, partial, tail, first, packed); break;
    }
    value += now * V::kLanes;
    gradient += now * V::kLanes;
    grad_out += now * V::kLanes;
    left -= now * V::kLanes;
  }
}

// One level of one head of one image.
template <class V>
struct Floor {
  using T = typename V::T;
  const int64_t *shape;
  int64_t level, tokens, first;  // first: of the level's rows, in elements of value
  bool packed;                   // value and gradient are copies with rows of whole vectors
  const T *value;
  T *gradient;
  int64_t stride, outside, sink;  // of a row; from value and from gradient to the row for what is outside the image
};

// A head of an image while its gradients are computed.
template <class V>
struct Head {
  using T = typename V::T;
  const Problem &p;
  const T *grad_out, *locations, *weights;
  T *grad_locations, *grad_weights;
  int64_t image, head;
  int64_t together, count;  // queries in a bundle, and their samples, padded
  Levels<V> levels;
  Taken<V> taken;   // two bundles
  Samples<V> both;  // two bundles
  Bundle<V> bundle;

  int64_t owner(int64_t query) const { return (image * p.queries + query) * p.heads + head; }

  int64_t in_bundle(int64_t query, int64_t end) const { return query + together < end ? together : end - query; }

  // Takes the samples of the bundle of queries from `query` to `end` at most, for the half of the ring from `at` on.
  void take(const Floor<V> &floor, int64_t query, int64_t end, int64_t at) const {
    for (int64_t j = 0; j < in_bundle(query, end); ++j) {
      const int64_t from = (owner(query + j) * p.levels + floor.level) * p.points;
      const int64_t later = query + j + 2 * together < p.queries ? query + j + 2 * together : query + j;
      const int64_t later_from = (owner(later) * p.levels + floor.level) * p.points;
      for (int64_t i = 0; i < p.points; i += 64 / sizeof(T)) {
        fetch<64>(locations + 2 * (later_from + i));
        fetch<64>(weights + later_from + i);
      }
      for (int64_t c = 0; c < p.channels; c += 64 / sizeof(T)) fetch<64>(grad_out + owner(query + j) * p.channels + c);
      taken.from(at + j * p.points).take(locations + 2 * from, weights + from, p.points);
    }
  }

  // Places the samples that were taken for that half.
  void place(const Floor<V> &floor, int64_t now, int64_t at) const {
    const Samples<V> into = both.from(at);
    into.place(taken.from(at), now * p.points, levels);
    into.resolve(now * p.points, floor.stride, floor.outside, into.offset(0));
    if (!floor.packed) into.resolve(now * p.points, floor.stride, floor.sink, into.target(0));
  }

  // Queries `begin` to `end`.
  void spread(const Floor<V> &floor, int64_t begin, int64_t end) const {
    levels.fill(0, count, floor.shape, 0);
    // While a bundle is worked on, the next one is placed and the one after it taken.
    take(floor, begin, end, 0);
    place(floor, in_bundle(begin, end), 0);
    if (begin + together < end) take(floor, begin + together, end, count);
    for (int64_t query = begin, half = 0; query < end; query += together, half = count - half) {
      const int64_t next = query + together, after = next + together;
      if (next < end) place(floor, in_bundle(next, end), count - half);
      if (after < end) take(floor, after, end, half);
      const int64_t now = in_bundle(query, end), all = now * p.points;
      for (int64_t j = 0; j < now; ++j) {
        spread_samples<V>(floor.packed, floor.value, floor.gradient, grad_out + owner(query + j) * p.channels, both,
                          2 * count, half + j * p.points, p.points, bundle.partial + j * p.points * 4 * V::kLanes,
                          p.channels);
      }
      V::sums(bundle.partial, 4 * all, bundle.dot);
      bundle.finish(both.from(half), all, floor.shape);
      for (int64_t j = 0, i = 0; j < now; ++j) {
        const int64_t at = (owner(query + j) * p.levels + floor.level) * p.points;
        for (int64_t point = 0; point < p.points; ++point, ++i) {
          grad_locations[2 * (at + point)] = bundle.by_x[i];
          grad_locations[2 * (at + point) + 1] = bundle.by_y[i];
          grad_weights[at + point] = bundle.by_scale[i];
        }
      }
    }
  }
};

// Queries that go through all levels before the next ones do: what is read and written for them stays in the cache.
constexpr int64_t kChunk = 256;

// Whether a level's samples are so many that copies of one head's values and gradients pay.
template <class V>
bool is_packed(const Problem &p, int64_t tokens) {
  return p.queries * p.points * 4 > 2 * tokens;
}

// Clears part `part` of `parts` of the gradients that are added to where they lie; all heads together, for the rows of
// one head alone, each a whole token behind the last, took three times as long.
template <class V>
void clear_in_place(const Problem &p, typename V::T *grad_value, int64_t part, int64_t parts) {
  const int64_t row = p.heads * p.channels;
  for (int64_t image = 0; image < p.batch; ++image) {
    for (int64_t level = 0; level < p.levels; ++level) {
      const int64_t tokens = p.shapes[2 * level] * p.shapes[2 * level + 1], count = tokens * row;
      const int64_t from = count * part / parts, to = count * (part + 1) / parts;
      if (!is_packed<V>(p, tokens)) __builtin_memset(grad_value + from, 0, (to - from) * sizeof(*grad_value));
      grad_value += count;
    }
  }
}

// `grad_value` has been through `clear_in_place`.
template <class V>
bool backward(const Problem &p, const typename V::T *grad_out, const typename V::T *value,
              const typename V::T *locations, const typename V::T *weights, typename V::T *grad_value,
              typename V::T *grad_locations, typename V::T *grad_weights, int64_t task, int64_t first_level,
              int64_t last_level, Scratch &scratch) {
  using T = typename V::T;
  const int64_t image = task / p.heads, head = task % p.heads, row = p.heads * p.channels;
  const int64_t together = p.points < 16 ? 32 / p.points : 2, count = Lanes<V>::padded(together * p.points);
  const int64_t wide = padded<V>(p.channels), zeros = padded<V>(row);
  Floor<V> *const floors = static_cast<Floor<V> *>(scratch.get(Scratch::kFloors, p.levels * sizeof(Floor<V>)));
  if (!floors) return false;

  // The copies of the levels lie one after another, each with its row for what is outside; a row of zeros comes first.
  int64_t copied = zeros, start = 0;
  for (int64_t level = 0; level < last_level; ++level) {
    const int64_t *const shape = p.shapes + 2 * level;
    const int64_t tokens = shape[0] * shape[1];
    const bool packed = is_packed<V>(p, tokens);
    floors[level] = {shape,   level, tokens, (image * p.tokens + start) * row + head * p.channels,
                     packed,  nullptr, nullptr, packed ? wide : row, copied, 0};
    if (packed && level >= first_level) copied += (tokens + 1) * wide;
    start += tokens;
  }
  void *const levels_at = scratch.get(Scratch::kLevels, Levels<V>::bytes(count));
  void *const taken_at = scratch.get(Scratch::kTaken, Taken<V>::bytes(2 * count));
  void *const samples_at = scratch.get(Scratch::kSamples, Samples<V>::bytes(2 * count));
  void *const bundle_at = scratch.get(Scratch::kSums, Bundle<V>::bytes(count));
  T *const own_value = static_cast<T *>(scratch.get(Scratch::kValue, copied * sizeof(T)));
  T *const own_gradient = static_cast<T *>(scratch.get(Scratch::kGradient, copied * sizeof(T)));
  if (!levels_at || !taken_at || !samples_at || !bundle_at || !own_value || !own_gradient) return false;

  clear<V>(own_value, zeros);
  for (int64_t level = first_level; level < last_level; ++level) {
    Floor<V> &floor = floors[level];
    if (floor.packed) {
      T *const copy = own_value + floor.outside, *const sums = own_gradient + floor.outside;
      pack<V>(value + floor.first, row, copy, wide, floor.tokens, p.channels);
      clear<V>(copy + floor.tokens * wide, wide);
      clear<V>(sums, (floor.tokens + 1) * wide);
      floor.value = copy;
      floor.gradient = sums;
      floor.outside = floor.sink = floor.tokens * wide;
    } else {
      floor.value = value + floor.first;
      floor.gradient = grad_value + floor.first;
      floor.outside = own_value - floor.value;
      floor.sink = own_gradient - floor.gradient;
    }
  }
  const Head<V> work = {p,        grad_out, locations, weights, grad_locations, grad_weights, image, head,
                        together, count,    Levels<V>::in(levels_at, count), Taken<V>::in(taken_at, 2 * count),
                        Samples<V>::in(samples_at, 2 * count),
                        Bundle<V>::in(bundle_at, count)};
  for (int64_t query = 0; query < p.queries; query += kChunk) {
    const int64_t end = query + kChunk < p.queries ? query + kChunk : p.queries;
    for (int64_t level = first_level; level < last_level; ++level) work.spread(floors[level], query, end);
  }
  for (int64_t level = first_level; level < last_level; ++level) {
    const Floor<V> &floor = floors[level];
    if (floor.packed) unpack<V>(floor.gradient, wide, grad_value + floor.first, row, floor.tokens, p.channels);
  }
  return true;
}
