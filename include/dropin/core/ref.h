// Intrusive reference counting: one pointer, one allocation, no <memory>.
#pragma once
#include <atomic>
#include <cstdint>
#include <utility>

namespace dropin {

/// Base of objects held by Ref.
class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;
  virtual ~RefCounted() = default;
  void retain() const { count_.fetch_add(1, std::memory_order_relaxed); }
  /// True when the caller dropped the last reference and must destroy the object.
  bool release() const { return count_.fetch_sub(1, std::memory_order_acq_rel) == 1; }
  int64_t use_count() const { return count_.load(std::memory_order_relaxed); }

 private:
  mutable std::atomic<int64_t> count_{0};
};

/// Owning pointer to a RefCounted.
template <class T>
class Ref {
 public:
  Ref() = default;
  Ref(T* p) : p_(p) {
    if (p_) p_->retain();
  }
  Ref(const Ref& o) : Ref(o.p_) {}
  Ref(Ref&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  template <class U>
  Ref(const Ref<U>& o) : Ref(o.get()) {}
  Ref& operator=(Ref o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Ref() {
    if (p_ && p_->release()) delete p_;
  }
  T* get() const { return p_; }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }
  explicit operator bool() const { return p_ != nullptr; }
  bool operator==(const Ref& o) const { return p_ == o.p_; }

 private:
  T* p_ = nullptr;
};

/// Sole owner of a heap object; moves, never copies.
template <class T>
class Box {
 public:
  Box() = default;
  explicit Box(T* p) : p_(p) {}
  Box(Box&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  template <class U>
  Box(Box<U>&& o) noexcept : p_(o.release()) {}
  Box& operator=(Box o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Box() { delete p_; }
  T* get() const { return p_; }
  T* release() { return std::exchange(p_, nullptr); }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }
  explicit operator bool() const { return p_ != nullptr; }

 private:
  T* p_ = nullptr;
};

template <class T, class... A>
Ref<T> make_ref(A&&... a) {
  return Ref<T>(new T(std::forward<A>(a)...));
}

}  // namespace dropin
