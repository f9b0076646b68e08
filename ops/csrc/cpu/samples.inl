// Where samples lie: four corners each, with their weights. Included by kernels.inl, once per instruction set.

// Vectors of the compiler's own, of as many lanes as V has: what is done for samples is done for all lanes at once, and
// compilers do not find that out for themselves here. Arrays are padded to whole vectors.
template <class V>
struct Lanes {
  using T = typename V::T;
  using Whole = typename Integer<sizeof(T)>::type;
  static constexpr int kLanes = V::kLanes;
  typedef T Numbers __attribute__((vector_size(kLanes * sizeof(T)), aligned(sizeof(T)), may_alias));
  typedef Whole Wholes __attribute__((vector_size(kLanes * sizeof(T)), aligned(sizeof(T)), may_alias));

  static int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }
  static Numbers &at(T *array, int64_t i) { return *reinterpret_cast<Numbers *>(array + i); }
  static Wholes &at(Whole *array, int64_t i) { return *reinterpret_cast<Wholes *>(array + i); }
};

// What a sample's level is, repeated for every sample.
template <class V>
struct Levels {
  using T = typename V::T;
  using Whole = typename Lanes<V>::Whole;
  T *width, *height;
  Whole *columns, *rows, *start;  // start: the row of the value matrix with the level's first token

  static Levels in(void *memory, int64_t count) {
    const int64_t step = Lanes<V>::padded(count);
    T *const numbers = static_cast<T *>(memory);
    Whole *const wholes = reinterpret_cast<Whole *>(numbers + 2 * step);
    return {numbers, numbers + step, wholes, wholes + step, wholes + 2 * step};
  }
  static size_t bytes(int64_t count) { return Lanes<V>::padded(count) * 5 * sizeof(T); }

  void fill(int64_t from, int64_t count, const int64_t *shape, int64_t first) const {
    for (int64_t i = from; i < from + count; ++i) {
      height[i] = static_cast<T>(shape[0]);
      width[i] = static_cast<T>(shape[1]);
      rows[i] = static_cast<Whole>(shape[0]);
      columns[i] = static_cast<Whole>(shape[1]);
      start[i] = static_cast<Whole>(first);
    }
  }
};

// Samples as a caller has them, x, y and weight apart. Where they come a few at a time they had better be taken long
// before they are placed: a vector that is read back from several smaller stores waits for all stores before it.
template <class V>
struct Taken {
  using T = typename V::T;
  T *x, *y, *scale;

  static Taken in(void *memory, int64_t count) {
    const int64_t step = Lanes<V>::padded(count);
    T *const numbers = static_cast<T *>(memory);
    return {numbers, numbers + step, numbers + 2 * step};
  }
  static size_t bytes(int64_t count) { return Lanes<V>::padded(count) * 3 * sizeof(T); }

  Taken from(int64_t at) const { return {x + at, y + at, scale + at}; }

  // `locations` [count, 2], fractions, and `weights` [count].
  void take(const T *__restrict locations, const T *__restrict weights, int64_t count) const {
    T *__restrict to_x = x, *__restrict to_y = y, *__restrict to_scale = scale;
    for (int64_t i = 0; i < count; ++i) {
      to_x[i] = locations[2 * i];
      to_y[i] = locations[2 * i + 1];
      to_scale[i] = weights[i];
    }
  }
};

// Samples, as one array of `step` per property. Corners are ordered top left, top right, bottom left, bottom right.
// Small enough for registers: a larger one, copied through memory, would wait for every store before it.
template <class V>
struct Samples {
  using T = typename V::T;
  using Whole = typename Lanes<V>::Whole;
  int64_t *wide;
  T *numbers;
  Whole *wholes;
  int64_t step;

  // Elements from the value matrix's base to the corner's row, and the same for the gradient's matrix.
  int64_t *offset(int k) const { return wide + k * step; }
  int64_t *target(int k) const { return wide + (4 + k) * step; }
  T *weight(int k) const { return numbers + k * step; }  // bilinear, times the sample's own weight
  T *x() const { return numbers + 4 * step; }            // fractions of a pixel from the top left corner
  T *y() const { return numbers + 5 * step; }
  T *scale() const { return numbers + 6 * step; }  // the sample's own weight
  Whole *row(int k) const { return wholes + k * step; }  // the corner's row; -1: outside

  static Samples in(void *memory, int64_t count) {
    const int64_t step = Lanes<V>::padded(count);
    int64_t *const wide = static_cast<int64_t *>(memory);
    T *const numbers = reinterpret_cast<T *>(wide + 8 * step);
    return {wide, numbers, reinterpret_cast<Whole *>(numbers + 7 * step), step};
  }
  static size_t bytes(int64_t count) { return Lanes<V>::padded(count) * (8 * sizeof(int64_t) + 11 * sizeof(T)); }

  // The samples from number `at` on.
  Samples from(int64_t at) const { return {wide + at, numbers + at, wholes + at, step}; }

  // Places the `count` samples in `given`.
  void place(const Taken<V> &given, int64_t count, const Levels<V> &levels) const {
    using L = Lanes<V>;
    using Numbers = typename L::Numbers;
    using Wholes = typename L::Wholes;
    const Numbers zero = {}, one = zero + T(1);
    const Wholes none = Wholes{} - 1;
    for (int64_t i = 0; i < count; i += L::kLanes) {
      const Numbers width = L::at(levels.width, i), height = L::at(levels.height, i), scales = L::at(given.scale, i);
      const Wholes columns = L::at(levels.columns, i), rows = L::at(levels.rows, i);
      const Numbers px = L::at(given.x, i) * width - T(0.5), py = L::at(given.y, i) * height - T(0.5);
      // False for NaN too: whatever a location is, no corner is read outside the image.
      const Wholes near = (px >= -one) & (px < width) & (py >= -one) & (py < height);
      const Numbers sx = near ? px : zero, sy = near ? py : zero;
      Wholes column = __builtin_convertvector(sx, Wholes), line = __builtin_convertvector(sy, Wholes);
      // A true comparison is -1: rounded towards minus infinity, not towards zero.
      column += sx < __builtin_convertvector(column, Numbers);
      line += sy < __builtin_convertvector(line, Numbers);
      const Numbers lx = sx - __builtin_convertvector(column, Numbers);
      const Numbers ly = sy - __builtin_convertvector(line, Numbers);
      const Wholes left = near & (column >= 0), right = near & (column + 1 < columns);
      const Wholes top = line >= 0, bottom = line + 1 < rows;
      const Wholes above = L::at(levels.start, i) + line * columns + column, below = above + columns;
      const Numbers lower = scales * ly, upper = scales - lower;
      L::at(row(0), i) = (left & top) ? above : none;
      L::at(row(1), i) = (right & top) ? above + 1 : none;
      L::at(row(2), i) = (left & bottom) ? below : none;
      L::at(row(3), i) = (right & bottom) ? below + 1 : none;
      L::at(weight(0), i) = upper - upper * lx;
      L::at(weight(1), i) = upper * lx;
      L::at(weight(2), i) = lower - lower * lx;
      L::at(weight(3), i) = lower * lx;
      L::at(scale(), i) = scales;
      L::at(x(), i) = lx;
      L::at(y(), i) = ly;
    }
  }

  // Rows into offsets (of `to`, target's or offset's first), `stride` elements apart. What is outside is sent to a row of
  // its own at `outside` (of zeros, in the value matrix), so that no loop needs to ask.
  void resolve(int64_t count, int64_t stride, int64_t outside, int64_t *to) const {
    for (int k = 0; k < 4; ++k) {
      int64_t *__restrict offsets = to + k * step;
      const Whole *__restrict from = row(k);
      for (int64_t i = 0; i < count; ++i) offsets[i] = from[i] < 0 ? outside : from[i] * stride;
    }
  }
};
