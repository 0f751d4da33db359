#include "models/config_fields.h"

#include <string>

namespace nemotron {
namespace {

// `rope_scaling`, or `rope_parameters` of newer files, which has rope_theta inside.
void read_rope_block(const Json& block, const std::string& where, RopeConfig* out,
                     JsonFields* parent) {
  JsonFields f(block, where);
  // Without a type and a factor there is nothing to scale.
  const std::string type =
      f.text("rope_type", f.text("type", f.find("factor") ? "" : "default").c_str());
  out->theta = f.real("rope_theta", 1, 1e15, out->theta);
  if (f.real("partial_rotary_factor", 0, 1, 1.0) != 1.0) {
    f.unsupported("\"partial_rotary_factor\" is not 1; served: 1");
  }
  if (type == "llama3") {
    out->kind = RopeConfig::Kind::llama3;
    out->factor = f.real("factor", 1, 1e6);
    out->low_freq_factor = f.real("low_freq_factor", 1e-6, 1e6);
    out->high_freq_factor = f.real("high_freq_factor", 1e-6, 1e6);
    out->original_max_position = f.integer("original_max_position_embeddings", 1, kMaxPosition);
    if (f.status().ok() && out->high_freq_factor <= out->low_freq_factor) {
      f.fail("\"high_freq_factor\" is not above \"low_freq_factor\"");
    }
  } else if (type != "default" && f.status().ok()) {
    f.unsupported("\"rope_type\" is " + (type.empty() ? "missing" : Json(type).brief()) +
                  "; served: \"llama3\" and \"default\"");
  }
  parent->adopt(f.status());
}

bool same(const RopeConfig& a, const RopeConfig& b) {
  return a.theta == b.theta && a.kind == b.kind && a.factor == b.factor &&
         a.low_freq_factor == b.low_freq_factor && a.high_freq_factor == b.high_freq_factor &&
         a.original_max_position == b.original_max_position;
}

}  // namespace

void read_rope(JsonFields* f, RopeConfig* out) {
  out->theta = f->real("rope_theta", 1, 1e15, out->theta);
  const Json* scaling = f->find("rope_scaling");
  const Json* parameters = f->find("rope_parameters");
  RopeConfig newer = *out;
  if (scaling) read_rope_block(*scaling, f->inside("rope_scaling"), out, f);
  if (parameters) read_rope_block(*parameters, f->inside("rope_parameters"), &newer, f);
  if (scaling && parameters && f->status().ok() && !same(*out, newer)) {
    f->fail("\"rope_scaling\" and \"rope_parameters\" disagree; expected one of them");
  }
  if (parameters) *out = newer;
}

}  // namespace nemotron
