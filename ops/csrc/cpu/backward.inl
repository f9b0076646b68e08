// The backward pass. Included by kernels.inl, once per instruction set.

// The samples of a few queries at once, in one level of one head.
template <class T>
struct Bundle {
  T *locations, *weights;  // [count, 2], [count], as the problem has them
  T *partial;              // [count, 4 corners, lanes]: grad_out times the corner's row, before the lanes are summed
  T *dot;                  // [count, 4]: after

  static Bundle in(void *memory, int64_t count, int64_t lanes) {
    T *const at = static_cast<T *>(memory);
    return {at + count * 4 * lanes, at + count * (4 * lanes + 2), at, at + count * (4 * lanes + 3)};
  }
  static size_t bytes(int64_t count, int64_t lanes) { return count * (4 * lanes + 7) * sizeof(T); }
};

// One query, N vectors of channels: adds to the gradients of the rows at its samples' corners, and multiplies these
// rows with grad_out. first: nothing is in `partial` yet. kTail: as in the forward pass.
template <class V, int N, bool kTail>
void spread_block(const typename V::T *value, typename V::T *gradient, const typename V::T *grad_out,
                  const Samples<typename V::T> &samples, int64_t from, int64_t to, typename V::T *partial, int tail,
                  bool first) {
  using T = typename V::T;
  V given[N];
  GREEDYPRUNE_UNROLL
  for (int n = 0; n < N; ++n) {
    const bool cut = n == N - 1 && tail;
    given[n] = cut ? V::load(grad_out + n * V::kLanes, tail) : V::load(grad_out + n * V::kLanes);
  }
  for (int64_t i = from; i < to; ++i) {
    GREEDYPRUNE_UNROLL
    for (int k = 0; k < 4; ++k) {
      const T *const row = value + samples.offset[k][i];
      T *const target = gradient + samples.target[k][i];
      T *const sum_at = partial + (i * 4 + k) * V::kLanes;
      const V weight = V::splat(samples.weight[k][i]);
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
                  const Samples<typename V::T> &samples, int64_t from, int64_t to, typename V::T *partial, int tail,
                  bool first) {
  if (cut) {
    spread_block<V, N, true>(value, gradient, grad_out, samples, from, to, partial, tail, first);
  } else {
    spread_block<V, N, false>(value, gradient, grad_out, samples, from, to, partial, tail, first);
  }
}

template <class V>
void spread_samples(bool packed, const typename V::T *value, typename V::T *gradient, const typename V::T *grad_out,
                    const Samples<typename V::T> &samples, int64_t from, int64_t to, typename V::T *partial,
                    int64_t channels) {
  bool first = true;
  for (int64_t left = channels; left > 0; first = false) {
    const int64_t vectors = (left + V::kLanes - 1) / V::kLanes;
    const int64_t now = vectors < 4 ? vectors : 4;
    const int tail = now == vectors ? static_cast<int>(left % V::kLanes) : 0;
    const bool cut = tail && !packed;
    switch (now) {
      case 1: spread_block<V, 1>(cut, value, gradient, grad_out, samples, from, to, partial, tail, first); break;
      case 2: spread_block<V, 2>(cut, value, gradient, grad_out, samples, from, to, partial, tail, first); break;
      case 3: spread_block<V, 3>(cut, value, gradient, grad_out, samples, from, to, partial, tail, first); break;
      default: spread_block<V, 4>(cut, value, gradient, grad_out, samples, from, to, partial, tail, first); break;
    }
    value += now * V::kLanes;
    gradient += now * V::kLanes;
    grad_out += now * V::kLanes;
    left -= now * V::kLanes;
  }
}

// Gradients of a sample's location and weight, from grad_out's products with its corners (zero outside the image).
template <class T>
void finish_sample(const Samples<T> &samples, int64_t i, const T *dot, const int64_t *shape, T *grad_location,
                   T *grad_weight) {
  const T x = samples.x[i], y = samples.y[i], scale = samples.scale[i];
  const T upper = dot[0] + x * (dot[1] - dot[0]), lower = dot[2] + x * (dot[3] - dot[2]);
  *grad_weight = upper + y * (lower - upper);
  grad_location[0] = scale * static_cast<T>(shape[1]) * ((1 - y) * (dot[1] - dot[0]) + y * (dot[3] - dot[2]));
  grad_location[1] = scale * static_cast<T>(shape[0]) * (lower - upper);
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
  const int64_t together = p.points < 32 ? 32 / p.points : 1, count = together * p.points;

  const size_t rows_bytes = (packed ? (tokens + 1) * stride : padded<V>(row)) * sizeof(T);
  void *const levels_at = scratch.get(Scratch::kLevels, Levels<T>::bytes(count));
  void *const samples_at = scratch.get(Scratch::kSamples, Samples<T>::bytes(count));
  void *const bundle_at = scratch.get(Scratch::kSums, Bundle<T>::bytes(count, V::kLanes));
  T *const own_value = static_cast<T *>(scratch.get(Scratch::kValue, rows_bytes));
  T *const own_gradient = static_cast<T *>(scratch.get(Scratch::kGradient, rows_bytes));
  if (!levels_at || !samples_at || !bundle_at || !own_value || !own_gradient) return false;
  const Levels<T> levels = Levels<T>::in(levels_at, count);
  Samples<T> samples = Samples<T>::in(samples_at, count);
  const Bundle<T> bundle = Bundle<T>::in(bundle_at, count, V::kLanes);
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

  for (int64_t query = 0; query < p.queries; query += together) {
    const int64_t now = query + together < p.queries ? together : p.queries - query, all = now * p.points;
    for (int64_t j = 0; j < now; ++j) {
      const int64_t at = (((image * p.queries + query + j) * p.heads + head) * p.levels + level) * p.points;
      for (int64_t i = 0; i < 2 * p.points; ++i) bundle.locations[2 * j * p.points + i] = locations[2 * at + i];
      for (int64_t i = 0; i < p.points; ++i) bundle.weights[j * p.points + i] = weights[at + i];
    }
    samples.place(bundle.locations, bundle.weights, all, levels);
    samples.resolve(all, stride, outside, samples.offset);
    samples.resolve(all, stride, sink, samples.target);
    for (int64_t j = 0; j < now; ++j) {
      const T *const given = grad_out + ((image * p.queries + query + j) * p.heads + head) * p.channels;
      spread_samples<V>(packed, from, to, given, samples, j * p.points, (j + 1) * p.points, bundle.partial, p.channels);
    }
    V::sums(bundle.partial, 4 * all, bundle.dot);
    for (int64_t i = 0; i < all; ++i) {
      const int64_t owner = (image * p.queries + query + i / p.points) * p.heads + head;
      const int64_t at = (owner * p.levels + level) * p.points + i % p.points;
      finish_sample(samples, i, bundle.dot + 4 * i, shape, grad_locations + 2 * at, grad_weights + at);
    }
  }
  if (packed) unpack<V>(to, stride, grad_value + first_row, row, tokens, p.channels);
  return true;
}
