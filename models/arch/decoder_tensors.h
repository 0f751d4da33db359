// The tensors of a decoder by the names that transformers gives them: what all families share. What
// a layer has, and whether norms have biases, is the config's word.
#pragma once

#include "models/config.h"
#include "models/sources.h"
#include "models/tensor_finder.h"

namespace nemotron {

// Finds and checks them; problems go to the finder. Tensors of absent parts of a layer (a no-op
// attention has no norm either) are not asked for.
void find_decoder(TensorFinder* finder, const ModelConfig& config, Sources* out);

}  // namespace nemotron
