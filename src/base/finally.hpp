// Runs a clean-up when the scope ends, however it ends. The clean-up must not throw.
#pragma once

#include <utility>

namespace vmferry {

template <class F>
class Finally {
 public:
  explicit Finally(F f) : f_(std::move(f)) {}
  ~Finally() {
    if (armed_) f_();
  }
  Finally(const Finally&) = delete;
  Finally& operator=(const Finally&) = delete;
  void dismiss() noexcept { armed_ = false; }

 private:
  F f_;
  bool armed_ = true;
};

}  // namespace vmferry
