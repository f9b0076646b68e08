// Rows of channels, one after another. Included by kernels.inl, once per instruction set.

#define GREEDYPRUNE_UNROLL _Pragma("GCC unroll 4")

// A copy of one head's channels, [count + 1, stride] with rows of whole vectors, pays where its rows are read often: a
// head's rows lie a whole token apart in `value`, which leaves most of a cache unused. The last row stays zero.
template <class V>
int64_t padded(int64_t channels) {
  return (channels + V::kLanes - 1) / V::kLanes * V::kLanes;
}

// Asks for `kBytes` bytes that will be needed soon.
template <int kBytes>
inline void fetch(const void *from) {
  GREEDYPRUNE_UNROLL
  for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(static_cast<const char *>(from) + i);
}

template <class V>
void pack(const typename V::T *from, int64_t from_stride, typename V::T *to, int64_t stride, int64_t count,
          int64_t channels) {
  const int64_t whole = channels / V::kLanes * V::kLanes;
  const int tail = static_cast<int>(channels - whole);
  for (int64_t row = 0; row < count; ++row, from += from_stride, to += stride) {
    // A row is a whole token behind the last; the address may lie behind the tensor, where asking does no harm.
    for (int64_t c = 0; c < channels; c += 64 / sizeof(*from)) fetch<64>(from + 16 * from_stride + c);
    for (int64_t c = 0; c < whole; c += V::kLanes) V::load(from + c).store(to + c);
    if (tail) V::load(from + whole, tail).store(to + whole);
  }
}

template <class V>
void unpack(const typename V::T *from, int64_t stride, typename V::T *to, int64_t to_stride, int64_t count,
            int64_t channels) {
  const int64_t whole = channels / V::kLanes * V::kLanes;
  const int tail = static_cast<int>(channels - whole);
  for (int64_t row = 0; row < count; ++row, from += stride, to += to_stride) {
    for (int64_t c = 0; c < whole; c += V::kLanes) V::load(from + c).store(to + c);
    if (tail) V::load(from + whole, tail).store(to + whole, tail);
  }
}

template <class V>
void clear(typename V::T *to, int64_t count) {
  for (int64_t i = 0; i < count; i += V::kLanes) V::zero().store(to + i);
}
