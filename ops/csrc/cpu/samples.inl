// Where samples lie: four corners each, with their weights. Included by kernels.inl, once per instruction set.

// What a sample's level is, repeated for every sample so that one loop over all of them is a loop over lanes.
template <class T>
struct Levels {
  T *width, *height;
  int32_t *columns, *rows, *start;  // start: the row of the value matrix with the level's first token

  static Levels in(void *memory, int64_t count) {
    T *numbers = static_cast<T *>(memory);
    int32_t *integers = reinterpret_cast<int32_t *>(numbers + 2 * count);
    return {numbers, numbers + count, integers, integers + count, integers + 2 * count};
  }
  static size_t bytes(int64_t count) { return count * (2 * sizeof(T) + 3 * sizeof(int32_t)); }

  void fill(int64_t from, int64_t count, const int64_t *shape, int64_t first) const {
    for (int64_t i = from; i < from + count; ++i) {
      height[i] = static_cast<T>(shape[0]);
      width[i] = static_cast<T>(shape[1]);
      rows[i] = static_cast<int32_t>(shape[0]);
      columns[i] = static_cast<int32_t>(shape[1]);
      start[i] = static_cast<int32_t>(first);
    }
  }
};

// Samples, as one array per property. Corners are ordered top left, top right, bottom left, bottom right.
template <class T>
struct Samples {
  T *weight[4];        // bilinear, times the sample's own weight
  int64_t *offset[4];  // elements from the value matrix's base to the corner's row
  int64_t *target[4];  // the same for the gradient's matrix
  T *x, *y;            // fractions of a pixel from the top left corner
  T *scale;            // the sample's own weight
  int32_t *row[4];     // the corner's row; -1: outside

  static Samples in(void *memory, int64_t count) {
    Samples out;
    int64_t *integers = static_cast<int64_t *>(memory);
    T *numbers = reinterpret_cast<T *>(integers + 8 * count);
    int32_t *small = reinterpret_cast<int32_t *>(numbers + 7 * count);
    for (int k = 0; k < 4; ++k) {
      out.offset[k] = integers + k * count;
      out.target[k] = integers + (4 + k) * count;
      out.weight[k] = numbers + k * count;
      out.row[k] = small + k * count;
    }
    out.x = numbers + 4 * count;
    out.y = numbers + 5 * count;
    out.scale = numbers + 6 * count;
    return out;
  }
  static size_t bytes(int64_t count) { return count * (8 * sizeof(int64_t) + 7 * sizeof(T) + 4 * sizeof(int32_t)); }

  // `locations` [count, 2] as fractions, `weights` [count].
  void place(const T *__restrict locations, const T *__restrict weights, int64_t count, const Levels<T> &levels) {
    const T *__restrict width = levels.width, *__restrict height = levels.height;
    const int32_t *__restrict columns = levels.columns, *__restrict rows = levels.rows;
    const int32_t *__restrict start = levels.start;
    T *__restrict w0 = weight[0], *__restrict w1 = weight[1], *__restrict w2 = weight[2], *__restrict w3 = weight[3];
    int32_t *__restrict r0 = row[0], *__restrict r1 = row[1], *__restrict r2 = row[2], *__restrict r3 = row[3];
    T *__restrict fx = x, *__restrict fy = y, *__restrict a = scale;
    for (int64_t i = 0; i < count; ++i) {
      const T px = locations[2 * i] * width[i] - T(0.5), py = locations[2 * i + 1] * height[i] - T(0.5);
      // False for NaN too: whatever a location is, no corner is read outside the image.
      const bool near = (px >= T(-1)) & (px < width[i]) & (py >= T(-1)) & (py < height[i]);
      const T sx = near ? px : T(0), sy = near ? py : T(0);
      int32_t column = static_cast<int32_t>(sx), line = static_cast<int32_t>(sy);
      column -= sx < static_cast<T>(column);  // towards minus infinity, not towards zero
      line -= sy < static_cast<T>(line);
      const T lx = sx - static_cast<T>(column), ly = sy - static_cast<T>(line);
      const bool left = near & (column >= 0), right = near & (column + 1 < columns[i]);
      const bool top = line >= 0, bottom = line + 1 < rows[i];
      const int32_t at = start[i] + line * columns[i] + column;
      r0[i] = left & top ? at : -1;
      r1[i] = right & top ? at + 1 : -1;
      r2[i] = left & bottom ? at + columns[i] : -1;
      r3[i] = right & bottom ? at + columns[i] + 1 : -1;
      fx[i] = lx;
      fy[i] = ly;
      a[i] = weights[i];
      w0[i] = weights[i] * (1 - lx) * (1 - ly);
      w1[i] = weights[i] * lx * (1 - ly);
      w2[i] = weights[i] * (1 - lx) * ly;
      w3[i] = weights[i] * lx * ly;
    }
  }

  // Rows into offsets, `stride` elements apart. What is outside is sent to a row of its own at `outside` (of zeros, in
  // the value matrix), so that no loop needs to ask.
  void resolve(int64_t count, int64_t stride, int64_t outside, int64_t *const (&offsets)[4]) const {
    for (int k = 0; k < 4; ++k) {
      int64_t *__restrict to = offsets[k];
      const int32_t *__restrict from = row[k];
      for (int64_t i = 0; i < count; ++i) to[i] = from[i] < 0 ? outside : from[i] * stride;
    }
  }
};
