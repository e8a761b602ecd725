// What a look ahead finds: how probable missing literals are some tokens behind a candidate.
#pragma once
#include "dropin/generation/neurologic.h"
#include "generation/neuro_search.h"

namespace dropin::generation {

/// Sets `ahead` (alpha times the value) of candidates that have one, of all searches together.
/// rows: those that the candidates' parents end with; t: the step.
void look_ahead(const NeuroLogicAStarOptions& o, const Limits& l, const Rows& rows,
                std::vector<NeuroSearch>& all, const Uniforms& uniforms, int64_t t);

}  // namespace dropin::generation
