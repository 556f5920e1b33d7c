// Data that can be reached only through its lock:  Sync<State> state;  state.lock()->count++;
#pragma once

#include <mutex>
#include <utility>

namespace vmferry {

template <class T>
class Sync {
 public:
  template <class... Args>
  explicit Sync(Args&&... args) : data_(std::forward<Args>(args)...) {}

  class Lock {
   public:
    explicit Lock(Sync& owner) : lock_(owner.mutex_), data_(owner.data_) {}
    T* operator->() noexcept { return &data_; }
    T& operator*() noexcept { return data_; }
    std::unique_lock<std::mutex>& mutex() noexcept { return lock_; }

   private:
    std::unique_lock<std::mutex> lock_;
    T& data_;
  };
  Lock lock() { return Lock(*this); }

 private:
  std::mutex mutex_;
  T data_;
};

}  // namespace vmferry
