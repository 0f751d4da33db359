// The Device of the CPU. Ops run at once on the device's threads, so sync() has nothing to wait
// for. The activations between ops are float32; what the kernels round to BF16 they round
// themselves. open_cpu_device() (device.h) chooses the kernels; this takes any, for the op suite's
// emulated ones.
#pragma once

#include <memory>

#include "cpu/kernels.h"
#include "device/device.h"

namespace nemotron::cpu {

// Of options: exact_activations, debug_checks, group and rank; `threads` are of this rank. Throws
// std::bad_alloc or std::system_error.
std::unique_ptr<Device> make_cpu_device(const Kernels* kernels, int threads,
                                        const DeviceOptions& options);

}  // namespace nemotron::cpu
