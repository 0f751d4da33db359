// Refuses what the engine cannot serve, before it is queued. Any thread.
#pragma once

#include "engine/engine.h"

namespace nemotron {

inline constexpr int32_t kMaxChoices = 128;
inline constexpr int32_t kMaxLookupTokens = 16;
inline constexpr size_t kMaxStopStrings = 64, kMaxStopBytes = 4096;

inline constexpr size_t kMaxGrammarTriggers = 16, kMaxTagBytes = 256;

// invalid_argument: the message begins with the field's name. `vocabulary`: that grammars are for.
Status validate(const Request& request, const EngineInfo& info, int32_t num_tokens,
                const Vocabulary* vocabulary);

}  // namespace nemotron
