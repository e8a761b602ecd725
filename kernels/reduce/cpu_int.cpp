// Folds of integers and Bool: plain loops with 64-bit accumulators.
#include <limits>
#include <type_traits>

#include "dropin/core/dtype.h"
#include "kernels/reduce/blocks.h"

namespace dropin::kernels {
namespace {

struct Sum {
  template <class T>
  using Acc = int64_t;  // of a row
  static constexpr int64_t kInit = 0;
  static int64_t merge(int64_t a, int64_t b) {
    return static_cast<int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  }
};
struct Prod {
  template <class T>
  using Acc = int64_t;
  static constexpr int64_t kInit = 1;
  static int64_t merge(int64_t a, int64_t b) {
    return static_cast<int64_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  }
};
struct Max {
  template <class T>
  using Acc = T;
  static constexpr int64_t kInit = std::numeric_limits<int64_t>::min();
  template <class A>
  static A merge(A a, A b) {
    return a < b ? b : a;
  }
};
struct Min {
  template <class T>
  using Acc = T;
  static constexpr int64_t kInit = std::numeric_limits<int64_t>::max();
  template <class A>
  static A merge(A a, A b) {
    return b < a ? b : a;
  }
};

template <class F, class T>
FoldFns fns(int64_t init) {
  FoldFns f;
  f.init.i = init;
  f.merge = [](Partial a, Partial b) {
    a.i = F::merge(a.i, b.i);
    return a;
  };
  f.row = [](const void* data, int64_t n, double) {
    const T* x = static_cast<const T*>(data);
    using Acc = typename F::template Acc<T>;
    Acc acc = static_cast<Acc>(x[0]);  // rows are never empty
    for (int64_t i = 1; i < n; ++i) acc = F::merge(acc, static_cast<Acc>(x[i]));
    Partial p;
    p.i = static_cast<int64_t>(acc);
    return p;
  };
  f.columns = [](const void* data, int64_t stride, int64_t rows, int64_t columns, const double*,
                 Partial* acc) {
    const T* x = static_cast<const T*>(data);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < columns; ++j)
        acc[j].i = F::merge(acc[j].i, static_cast<int64_t>(x[r * stride + j]));
  };
  return f;
}

}  // namespace

FoldFns int_fold(Fold fold, DType t) {
  return visit_dtype(t, [&](auto zero) -> FoldFns {
    if constexpr (std::is_integral_v<decltype(zero)>) {
      constexpr bool truth = std::is_same_v<decltype(zero), bool>;
      using T = std::conditional_t<truth, std::uint8_t,
                                   decltype(zero)>;  // bytes vectorise; any of nothing is false,
                                                     // all of nothing true
      switch (fold) {
        case Fold::Prod:
          return fns<Prod, T>(Prod::kInit);
        case Fold::Max:
          return fns<Max, T>(truth ? 0 : Max::kInit);
        case Fold::Min:
          return fns<Min, T>(truth ? 1 : Min::kInit);
        default:
          return fns<Sum, T>(Sum::kInit);
      }
    } else {
      return FoldFns{};
    }
  });
}

}  // namespace dropin::kernels
