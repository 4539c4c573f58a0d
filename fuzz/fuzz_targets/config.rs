//! A config.json of any bytes: refused, or everything computed from it is a finite number.
#![no_main]

use libfuzzer_sys::fuzz_target;
use porism_loader::ModelConfig;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let file = Path::new("config.json");
    // A zero byte, which JSON never has, parts config.json from generation_config.json.
    let mut texts = bytes.splitn(2, |byte| *byte == 0);
    let config = texts.next().unwrap_or_default();
    let Ok(model) = ModelConfig::parse((file, config), texts.next().map(|text| (file, text))) else { return };
    assert!(model.softmax_scale().is_finite());
    assert!(model.rope_amplitude().is_finite());
    if model.qk_rope_head_dim < 10_000 {
        assert!(model.rope_inverse_frequencies().iter().all(|frequency| frequency.is_finite()));
    }
    for role in model.required_roles().take(1_000) {
        let shape = model.shape_of(role).expect("required roles have a shape");
        assert!(shape.elements() > 0);
    }
});
