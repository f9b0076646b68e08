// Forward and backward on vectors of one instruction set. Included once per instruction set, inside its namespace and
// under its pragma, after the vector type; nothing from the standard library may be used here, for the linker would
// take one compiled instance of its inline functions for all.

#include "rows.inl"
#include "samples.inl"
#include "forward.inl"
#include "backward.inl"

template <class V>
constexpr Kernels<typename V::T> kernels() {
  return {forward<V>, clear_in_place<V>, backward<V>};
}
