// What the tests of the emulator share: buffers, launches, and runs in every order.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "cuda/launch.h"
#include "test/check.h"

namespace emu_test {

using namespace nemotron::gpu;
using emu::Order;

struct Buffer {
  explicit Buffer(size_t n, bool filled = true) : count(n) {
    cudaMalloc(reinterpret_cast<void**>(&data), n * 4);
    if (filled) cudaMemsetAsync(data, 0, n * 4, nullptr);
  }
  ~Buffer() { cudaFree(data); }
  uint32_t* data = nullptr;
  size_t count;
};

template <class... P, class... A>
void run(dim3 grid, unsigned threads, size_t shared, bool pdl, void (*kernel)(P...), A... a) {
  Queue queue;
  queue.pdl = pdl;
  queue.waiting.insert(reinterpret_cast<const void*>(kernel));
  launch(queue, "kernel", kernel, grid, threads, shared, P(a)...);
}

// Runs `body` in each order; every run must report something that contains `part` (or nothing when
// `part` is empty).
template <class Body>
void in_all_orders(const std::string& part, Body body) {
  emu::take_errors();
  for (Order order : {Order::natural, Order::reverse, Order::random}) {
    emu::config().order = order;
    body();
    const std::vector<std::string> errors = emu::take_errors();
    if (part.empty()) {
      EXPECT_EQ(errors.size(), size_t(0));
      for (const std::string& e : errors) std::printf("    %s\n", e.c_str());
    } else {
      const bool found = std::any_of(errors.begin(), errors.end(), [&](const std::string& e) {
        return e.find(part) != std::string::npos;
      });
      EXPECT(found);
      if (!found) std::printf("    wanted \"%s\", got:\n", part.c_str());
      for (const std::string& e : errors) {
        if (!found) std::printf("    %s\n", e.c_str());
      }
    }
  }
  emu::config() = emu::Config{};
  cudaGetLastError();
}

}  // namespace emu_test
