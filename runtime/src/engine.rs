//! One model on one device or several: opened by plan, run step by step.

use std::time::Instant;

use crate::cache::{Pages, RowCopy, SequenceId};
use crate::device::{Device, DeviceId, DeviceSpec, OpenDevice};
use crate::error::Error;
use crate::model::Model;
use crate::model::buffers::{CANDIDATES, Step};
use crate::model::head;
use crate::model::ops::Ops;
use crate::model::sizes::Sizes;
use crate::options::{EngineOptions, Heat, Policy};
use crate::plan::{self, Plan};
use crate::recording::Recording;
use crate::rig::{Node, Rig, step};
use crate::sample::Candidates;
use crate::weights::load::{self, Fill, Loading};
use crate::weights::{Arrivals, LoadProgress, Pool, PoolFacts, Share, slot_layout};
use porism_loader::{Checkpoint, LayerRole, ModelConfig, Role};

/// Weights of the host are looked through for codes that are not numbers up to this size; beyond, the logits tell.
const HOST_CHECK_BYTES: u64 = 1 << 30;

/// Tokens of one sequence in a step.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// Whose they are.
    pub sequence: SequenceId,
    /// Which follow those already cached.
    pub tokens: &'a [u32],
}

/// What is done with the logits of the last token of each sequence of a step.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// Not even computed.
    Nothing,
    /// The most likely token.
    Argmax,
    /// Reduced to candidates for sampling, one entry per sequence.
    Candidates(&'a [RowSampling<'a>]),
}

/// How the logits of a sequence are prepared for sampling.
#[derive(Clone, Copy, Debug)]
pub struct RowSampling<'a> {
    /// Above 0; greedy rows take 1.
    pub temperature: f32,
    /// 1 changes nothing.
    pub repetition_penalty: f32,
    /// Ids that occurred, each once.
    pub seen: &'a [u32],
}

/// What came back from a step.
#[derive(Clone, Debug)]
pub enum Reduced {
    /// Nothing was asked.
    Nothing,
    /// A token per sequence.
    Tokens(Vec<u32>),
    /// Candidates per sequence.
    Candidates(Vec<Candidates>),
}

/// In which steps a prompt is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// As large as the engine allows.
    Prefill,
    /// Of so many tokens.
    Chunks(usize),
    /// Token by token.
    Steps,
}

/// Logits of a whole sequence.
#[derive(Clone, Debug)]
pub struct Logits {
    /// f32 (tokens, vocab_size)
    pub logits: Vec<f32>,
    /// What happened on the way, if asked.
    pub trace: Option<Trace>,
}

/// What happened inside the model, with the shapes of the golden files.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// f32 (num_hidden_layers + 1, tokens, hidden_size): the embedding, then the residual stream after each layer.
    pub hidden_states: Vec<f32>,
    /// i32 (MoE layers, tokens, num_experts_per_tok), descending selection score.
    pub expert_ids: Vec<i32>,
    /// i32 (num_hidden_layers, tokens, index_topk), ascending positions padded with −1; empty without an indexer.
    pub dsa_indices: Vec<i32>,
}

/// What the last step asked of the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepFacts {
    /// Dispatches in all.
    pub dispatches: usize,
    /// Dispatches of the last layer.
    pub last_layer_dispatches: usize,
    /// Recordings handed to the device, one submit each.
    pub submits: u64,
    /// Bytes read back.
    pub readback_bytes: u64,
    /// Seconds of the passes by the device's own clock.
    pub pass_seconds: Option<f64>,
    /// Seconds of the CPU for recording the step and encoding it for the device.
    pub record_seconds: f64,
}

/// A model on one device or several.
pub struct Engine<'c> {
    rig: Rig<'c>,
    config: ModelConfig,
    specs: Vec<DeviceSpec>,
    sizes: Sizes,
    pages: Pages,
    plan: Plan,
    frequencies: Vec<f64>,
    amplitude: f64,
    /// For what runs outside a step.
    recording: Recording,
    scratch: Scratch,
    facts: StepFacts,
    weight_bytes_per_token: u64,
    /// Pages of forked sequences, copied by the next step.
    copies: Vec<RowCopy>,
    /// When the current step began to be recorded.
    started: Instant,
}

/// Inputs of a step on the host, kept so that a step allocates nothing.
#[derive(Default)]
struct Scratch {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    sequences: Vec<u32>,
    cache_rows: Vec<u32>,
    rope: Vec<f32>,
    page_table: Vec<u32>,
    output_rows: Vec<u32>,
    temperatures: Vec<f32>,
    penalties: Vec<f32>,
    seen: Vec<[u32; 2]>,
}

impl<'c> Engine<'c> {
    /// Opens devices, plans every byte, then loads the weights. `progress` is called for every piece of them, and about ten
    /// times a second while none arrives, from whatever thread: what it returns ends the loading, also where a file
    /// system does not answer.
    ///
    /// # Errors
    /// A device that cannot be used, a plan that does not fit, a fault in the checkpoint, or what `progress` returns.
    pub fn open(
        checkpoint: &'c Checkpoint,
        devices: &[DeviceSpec],
        options: &EngineOptions,
        progress: &mut (dyn FnMut(LoadProgress) -> Result<(), Error> + Send),
    ) -> Result<Self, Error> {
        let devices = devices.iter().map(|spec| OpenDevice::open(*spec)).collect::<Result<_, _>>()?;
        Self::on(devices, checkpoint, options, progress)
    }

    /// The same on devices that are already open.
    pub fn on(
        devices: Vec<OpenDevice<'c>>,
        checkpoint: &'c Checkpoint,
        options: &EngineOptions,
        progress: &mut (dyn FnMut(LoadProgress) -> Result<(), Error> + Send),
    ) -> Result<Self, Error> {
        let config = checkpoint.config();
        let planned: Vec<Device> = devices.iter().map(OpenDevice::planned).collect();
        let plan = plan::plan(checkpoint, &planned, options)?;
        let sizes = options.sizes(plan.chunk);
        let specs = devices.iter().map(|device| device.spec).collect();
        let (mut nodes, mut fills, mut later) = (Vec::new(), Vec::new(), Vec::new());
        for (index, device) in devices.into_iter().enumerate() {
            let total = plan.devices[index].weights.total() + plan.devices[index].disk.total();
            let mapped = if device.executor.maps_weights() { total } else { 0 };
            let (node, wanted) = node(device, checkpoint, &plan, index, sizes, options.policy)?;
            nodes.push(node);
            let (wanted_later, wanted): (Vec<Fill>, Vec<Fill>) = wanted
                .into_iter()
                .partition(|fill| options.experts_later.is_some() && load::is_expert(&fill.from));
            fills.push(wanted);
            later.push(wanted_later);
            progress(LoadProgress { device: index, done: mapped, total })?;
        }
        let loading = nodes.iter_mut().zip(fills);
        let loading = loading.map(|(node, fills)| Loading { executor: &mut *node.executor, fills }).collect();
        let check = !checkpoint.options().allow_nan;
        load::load(checkpoint, loading, check, progress)?;
        let mut rig = Rig::new(checkpoint, nodes, plan.placement.clone(), options.count_experts);
        rig.expect(Arrivals::new(checkpoint, later, check, options.experts_later.unwrap_or(0)));
        let pages = Pages::new(options.sequences, options.context, sizes.cache_tokens as usize);
        Ok(Engine {
            rig,
            config: config.clone(),
            specs,
            frequencies: config.rope_inverse_frequencies(),
            amplitude: config.rope_amplitude(),
            sizes,
            pages,
            plan,
            recording: Recording::default(),
            scratch: Scratch::default(),
            facts: StepFacts::default(),
            weight_bytes_per_token: weight_bytes_per_token(checkpoint),
            copies: Vec::new(),
            started: Instant::now(),
        })
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Names of the devices.
    pub fn device_names(&self) -> String {
        let names: Vec<&str> = self.rig.nodes().iter().map(|node| node.name.as_str()).collect();
        names.join(" + ")
    }

    /// The devices, in the order in which they were given.
    pub fn devices(&self) -> &[DeviceSpec] {
        &self.specs
    }

    /// Bytes of the buffers that hold weights, padding, scales and slots included.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes_by_device().iter().sum()
    }

    /// The same of each device.
    pub fn weight_bytes_by_device(&self) -> Vec<u64> {
        let of = |node: &Node<'_>| node.model.bytes + node.pool.as_ref().map_or(0, Pool::bytes);
        self.rig.nodes().iter().map(of).collect()
    }

    /// Bytes of each device besides weights and the buffers of steps.
    pub fn staging_bytes_by_device(&self) -> Vec<u64> {
        self.rig.nodes().iter().map(|node| node.executor.staging_bytes()).collect()
    }

    /// Bytes of weights and scales that one token's computation reads: all but the embedding and the experts that are
    /// not picked.
    pub fn weight_bytes_per_token(&self) -> u64 {
        self.weight_bytes_per_token
    }

    /// What lies where, with the bytes of each device.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How often each expert was picked since the engine was opened, if that is counted.
    pub fn heat(&self) -> Option<&Heat> {
        self.rig.heat()
    }

    /// What happened to the slots of each device that has any.
    pub fn pools(&self) -> impl Iterator<Item = (&str, PoolFacts)> {
        self.rig.pools()
    }

    /// Bytes of experts that are not on their devices yet: above 0 only with [`EngineOptions::experts_later`].
    pub fn bytes_to_come(&self) -> u64 {
        self.rig.bytes_to_come()
    }

    /// Waits for some of the experts that are on their way, and says how many bytes are still to come: for whoever has
    /// nothing to compute meanwhile.
    ///
    /// # Errors
    /// A shard that cannot be read or was changed, codes that are not numbers, or a device that fails. What did not arrive
    /// is read again by the next step or call that wants it.
    pub fn receive_experts(&mut self) -> Result<u64, Error> {
        self.rig.receive()?;
        Ok(self.rig.bytes_to_come())
    }

    /// Tokens a sequence may grow to.
    pub fn context(&self) -> usize {
        self.sizes.context as usize
    }

    /// Tokens of the largest step.
    pub fn chunk(&self) -> usize {
        self.sizes.tokens as usize
    }

    /// What the last step asked of the device.
    pub fn facts(&self) -> StepFacts {
        self.facts
    }

    /// A new sequence, or `None` when all are in use.
    pub fn open_sequence(&mut self) -> Option<SequenceId> {
        self.pages.open()
    }

    /// A new sequence that begins with the first `tokens` tokens of `sequence`, which are not computed again; or `None`
    /// when there is no sequence or page left.
    pub fn fork_sequence(&mut self, sequence: SequenceId, tokens: usize) -> Option<SequenceId> {
        let (forked, copy) = self.pages.fork(sequence, tokens)?;
        self.copies.extend(copy);
        Some(forked)
    }

    /// Cache pages that no sequence holds.
    pub fn free_pages(&self) -> usize {
        self.pages.free_pages()
    }

    /// Cache pages that `count` more tokens of a sequence would take.
    pub fn pages_needed(&self, sequence: SequenceId, count: usize) -> usize {
        self.pages.pages_needed(sequence, count)
    }

    /// Sequences at once.
    pub fn sequences(&self) -> usize {
        self.sizes.sequences as usize
    }

    /// Forgets a sequence. Copies that forks of it still wait for come first in the next step, before its pages are reused.
    pub fn close_sequence(&mut self, sequence: SequenceId) {
        self.pages.close(sequence);
    }

    /// Tokens cached of a sequence.
    pub fn cached(&self, sequence: SequenceId) -> usize {
        self.pages.tokens(sequence)
    }

    /// Whether all ids are known to the model.
    pub fn check_ids(&self, ids: &[u32]) -> Result<(), Error> {
        let vocab_size = self.config.vocab_size;
        match ids.iter().position(|id| *id >= vocab_size) {
            None => Ok(()),
            Some(position) => Err(Error::TokenOutOfRange { id: ids[position].into(), position, vocab_size }),
        }
    }

    /// Runs tokens of some sequences through the model: in one submit where one device has everything, else in as many as
    /// the devices have to wait for each other.
    ///
    /// # Errors
    /// Tokens that do not fit, ids out of range, or a device that fails; the sequences are then as before.
    pub fn step(&mut self, work: &[Work<'_>], output: Output<'_>) -> Result<Reduced, Error> {
        let before: Vec<usize> = work.iter().map(|w| self.pages.tokens(w.sequence)).collect();
        let result = self.try_step(work, output);
        if result.is_err() {
            for (w, tokens) in work.iter().zip(before) {
                self.pages.truncate(w.sequence, tokens);
            }
        }
        result
    }

    fn try_step(&mut self, work: &[Work<'_>], output: Output<'_>) -> Result<Reduced, Error> {
        let tokens = self.begin(work)?;
        let mut rows = 0u32;
        self.scratch.output_rows.clear();
        for w in work {
            rows += w.tokens.len() as u32;
            self.scratch.output_rows.push(rows - 1);
        }
        let rows = work.len() as u32;
        let fit = self.head_step().logits_rows;
        assert!(rows <= fit, "{rows} sequences, logits of {fit} fit");
        if let Output::Candidates(sampling) = output {
            self.upload_sampling(sampling);
        }
        self.begin_recordings(tokens)?;
        let vocab_size = self.config.vocab_size;
        step::layers(&mut self.rig, tokens, &mut |_, _, _| {})?;
        let head = self.rig.head_home();
        let (mut ops, model, step) = self.rig.recorder(head, tokens, None);
        match output {
            Output::Nothing => {}
            Output::Argmax => {
                model.head(&mut ops, step, 0, rows);
                let found = head::argmax(&mut ops, &model.config, step, rows);
                ops.recording.read(found);
            }
            Output::Candidates(sampling) => {
                model.head(&mut ops, step, 0, rows);
                let penalised = sampling.iter().any(|s| s.repetition_penalty != 1.0);
                let seen = if penalised { self.scratch.seen.len() as u32 } else { 0 };
                let found = head::candidates(&mut ops, &model.config, step, rows, seen);
                ops.recording.read(found);
            }
        }
        let bytes = self.run()?;
        let words = words(&bytes);
        match output {
            Output::Nothing => Ok(Reduced::Nothing),
            Output::Argmax => {
                let tokens: Vec<u32> = words.chunks_exact(2).map(|pair| pair[0]).collect();
                let broken =
                    words.chunks_exact(2).filter(|pair| !f32::from_bits(pair[1]).is_finite()).count();
                if broken > 0 {
                    return Err(Error::NotFinite { count: broken as u32 });
                }
                Ok(Reduced::Tokens(tokens))
            }
            Output::Candidates(_) => {
                let row = 4 + 2 * CANDIDATES.min(vocab_size) as usize;
                let candidates = words.chunks_exact(row).map(|row| candidates(row, vocab_size as usize));
                Ok(Reduced::Candidates(candidates.collect::<Result<_, _>>()?))
            }
        }
    }

    /// All logits of row `row` of the last step, as they were sampled from.
    pub fn read_logits(&mut self, row: usize) -> Result<Vec<f32>, Error> {
        let bytes = u64::from(self.config.vocab_size) * 4;
        self.recording.clear();
        self.recording.read(self.head_step().activations.logits.slice(row as u64 * bytes, bytes));
        let read = self.rig.head_executor().run(&self.recording)?;
        Ok(floats(read))
    }

    /// The logits of every token of a sequence, in steps as `schedule` says.
    pub fn logits(&mut self, ids: &[u32], schedule: Schedule, trace: bool) -> Result<Logits, Error> {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.check_ids(ids)?;
        if ids.len() > self.context() {
            return Err(Error::ContextTooLong { tokens: ids.len(), context: self.context() });
        }
        let chunk = match schedule {
            Schedule::Prefill => self.chunk(),
            Schedule::Chunks(size) => size.clamp(1, self.chunk()),
            Schedule::Steps => 1,
        };
        let Some(sequence) = self.open_sequence() else {
            return Err(Error::ContextTooLong { tokens: ids.len(), context: 0 });
        };
        let mut logits = Vec::new();
        let mut parts = Vec::new();
        let mut result = Ok(());
        for tokens in ids.chunks(chunk) {
            match self.logits_step(Work { sequence, tokens }, trace, &mut logits) {
                Ok(part) => parts.push(part),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.close_sequence(sequence);
        result?;
        Ok(Logits { logits, trace: trace.then(|| join(&parts)) })
    }

    /// One step with all logits, appended to `logits`; the trace of its tokens, layer by layer.
    fn logits_step(
        &mut self,
        work: Work<'_>,
        trace: bool,
        logits: &mut Vec<f32>,
    ) -> Result<TracePart, Error> {
        let first = self.pages.tokens(work.sequence);
        let tokens = self.begin(&[work])?;
        self.scratch.output_rows.clear();
        self.scratch.output_rows.extend(0..tokens);
        self.begin_recordings(tokens)?;
        let c = &self.config;
        let topk = c.indexer.as_ref().map_or(0, |i| i.index_topk);
        let sparse = topk > 0 && self.head_step().longest > topk;
        let hidden = u64::from(tokens) * u64::from(c.hidden_size) * 4;
        let picks = u64::from(tokens) * u64::from(c.num_experts_per_tok) * 4;
        let selected = u64::from(tokens) * u64::from(topk) * 4;
        step::layers(&mut self.rig, tokens, &mut |ops, step, layer| {
            if !trace {
                return;
            }
            let a = &step.activations;
            ops.recording.read(a.h.slice(0, hidden));
            let Some(layer) = layer else { return };
            if c.is_moe(layer) {
                ops.recording.read(a.expert_ids.slice(0, picks));
            }
            if sparse {
                ops.recording.read(a.selected.slice(0, selected));
            }
        })?;
        let head = self.rig.head_home();
        let (mut ops, model, step) = self.rig.recorder(head, tokens, None);
        let row_bytes = u64::from(c.vocab_size) * 4;
        let mut done = 0;
        while done < tokens {
            let count = step.logits_rows.min(tokens - done);
            model.head(&mut ops, step, done, count);
            ops.recording.read(step.activations.logits.slice(0, u64::from(count) * row_bytes));
            done += count;
        }
        let moe: Vec<bool> = (0..c.num_hidden_layers).map(|layer| c.is_moe(layer)).collect();
        let bytes = self.run()?;
        let mut rest = &bytes[..];
        let mut take = |count: u64| {
            let (part, tail) = rest.split_at(count as usize);
            rest = tail;
            part
        };
        let mut part = TracePart::default();
        if trace {
            part.hidden_states.push(floats(take(hidden)));
            for moe in moe {
                part.hidden_states.push(floats(take(hidden)));
                if moe {
                    part.expert_ids.push(words(take(picks)).iter().map(|id| *id as i32).collect());
                }
                if sparse {
                    part.dsa_indices.push(words(take(selected)).iter().map(|s| *s as i32).collect());
                } else if topk > 0 {
                    let rows = (0..tokens as usize).flat_map(|t| {
                        (0..topk as usize).map(move |s| if s <= first + t { s as i32 } else { -1 })
                    });
                    part.dsa_indices.push(rows.collect());
                }
            }
        }
        logits.extend(floats(rest));
        Ok(part)
    }

    /// Takes pages for the work's tokens and prepares the inputs; returns how many tokens there are.
    fn begin(&mut self, work: &[Work<'_>]) -> Result<u32, Error> {
        self.started = Instant::now();
        let tokens: usize = work.iter().map(|w| w.tokens.len()).sum();
        assert!(tokens <= self.chunk(), "{tokens} tokens, a step holds {}", self.chunk());
        assert!(
            !work.is_empty() && work.iter().all(|w| !w.tokens.is_empty()),
            "every sequence of a step has tokens"
        );
        for w in work {
            self.check_ids(w.tokens)?;
            let total = self.pages.tokens(w.sequence) + w.tokens.len();
            if total > self.context() {
                return Err(Error::ContextTooLong { tokens: total, context: self.context() });
            }
        }
        let s = &mut self.scratch;
        for list in [&mut s.token_ids, &mut s.positions, &mut s.sequences, &mut s.cache_rows] {
            list.clear();
        }
        s.rope.clear();
        s.page_table.clear();
        s.page_table.resize(self.sizes.sequences as usize * self.pages.pages_per_sequence(), 0);
        s.temperatures.clear();
        let mut longest = 0;
        for w in work {
            let first = self.pages.extend(w.sequence, w.tokens.len())?;
            longest = longest.max(first + w.tokens.len());
            for (offset, id) in w.tokens.iter().enumerate() {
                let position = first + offset;
                s.token_ids.push(*id);
                s.positions.push(position as u32);
                s.sequences.push(w.sequence.0 as u32);
                s.cache_rows.push(self.pages.row(w.sequence, position));
                for frequency in &self.frequencies {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    s.rope.push((cos * self.amplitude) as f32);
                    s.rope.push((sin * self.amplitude) as f32);
                }
            }
            let per = self.pages.pages_per_sequence();
            self.pages.table(w.sequence, &mut s.page_table[w.sequence.0 * per..][..per]);
        }
        for (_, node) in self.rig.homes_mut() {
            node.step.longest = longest as u32;
        }
        Ok(tokens as u32)
    }

    fn upload_sampling(&mut self, sampling: &[RowSampling<'_>]) {
        let s = &mut self.scratch;
        s.penalties.clear();
        s.seen.clear();
        for (row, of) in sampling.iter().enumerate() {
            s.temperatures.push(of.temperature);
            s.penalties.push(of.repetition_penalty);
            if of.repetition_penalty != 1.0 {
                s.seen.extend(of.seen.iter().map(|id| [row as u32, *id]));
            }
        }
    }

    /// Empties all recordings and begins them: the step's inputs, and the copies of forked pages, on every home.
    fn begin_recordings(&mut self, tokens: u32) -> Result<(), Error> {
        self.rig.begin()?;
        let s = &self.scratch;
        let head = self.rig.head_home();
        for (index, node) in self.rig.homes_mut() {
            let (recording, inputs) = (&mut node.recording, &node.step.inputs);
            recording.upload(inputs.token_ids, &s.token_ids);
            recording.upload(inputs.positions, &s.positions);
            recording.upload(inputs.sequences, &s.sequences);
            recording.upload(inputs.cache_rows, &s.cache_rows);
            recording.upload(inputs.rope, &s.rope);
            recording.upload(inputs.page_table, &s.page_table);
            recording.upload(inputs.output_rows, &s.output_rows);
            if index == head && !s.temperatures.is_empty() {
                recording.upload(inputs.temperatures, &s.temperatures);
                recording.upload(inputs.penalties, &s.penalties);
                recording.upload(inputs.seen, &s.seen);
            }
            let (mut ops, model, step) = node.recorder(tokens, None);
            copy_pages(&mut ops, model, step, &self.copies);
        }
        Ok(())
    }

    fn head_step(&self) -> &Step {
        &self.rig.nodes()[self.rig.head_home()].step
    }

    fn run(&mut self) -> Result<Vec<u8>, Error> {
        let recorded = self.started.elapsed().as_secs_f64();
        let bytes = self.rig.finish()?;
        // A step that fails leaves the copies to the next one.
        self.copies.clear();
        let facts = self.rig.facts();
        self.facts = StepFacts {
            dispatches: facts.dispatches,
            last_layer_dispatches: facts.last_layer_dispatches,
            submits: facts.submits,
            readback_bytes: facts.readback_bytes,
            pass_seconds: facts.pass_seconds,
            // With several submits devices were at work while the step was recorded.
            record_seconds: if facts.submits == 1 { recorded } else { 0.0 } + facts.encode_seconds,
        };
        Ok(bytes)
    }
}

/// Makes room for a device's part of a plan, and says what has to be brought there.
fn node<'c>(
    device: OpenDevice<'c>,
    checkpoint: &'c Checkpoint,
    plan: &Plan,
    index: usize,
    sizes: Sizes,
    policy: Policy,
) -> Result<(Node<'c>, Vec<Fill>), Error> {
    let OpenDevice { spec, name, mut executor, .. } = device;
    let (config, part) = (checkpoint.config(), &plan.devices[index]);
    let executor_ref = &mut *executor;
    executor_ref.set_staging(&part.staging)?;
    let check = spec.index != DeviceId::Host || checkpoint.weight_bytes() <= HOST_CHECK_BYTES;
    let residents: Vec<Vec<u32>> = plan
        .placement
        .iter()
        .map(|places| {
            let here = (0u32..).zip(places).filter(|(_, place)| place.device == index && place.resident);
            here.map(|(expert, _)| expert).collect()
        })
        .collect();
    let in_slots = part.slots > 0;
    let none = vec![vec![]; residents.len()];
    let share = Share {
        range: part.layers.clone(),
        embedding: part.embedding,
        head: part.head,
        residents: if in_slots { none } else { residents.clone() },
    };
    let (model, mut fills) = Model::load(checkpoint, executor_ref, &share, check)?;
    let step = if share.is_home() || part.experts > 0 {
        Step::allocate(executor_ref, config, sizes, share.is_home().then(|| share.range.clone()))?
    } else {
        Step::nothing()
    };
    let mut pool = None;
    if in_slots {
        let here = |places: &Vec<plan::Place>| places.iter().map(|place| place.device == index).collect();
        let mine = plan.placement.iter().map(here).collect();
        let layout = |layer| slot_layout(checkpoint, layer);
        let slots = part.slots as usize;
        let mut made = Pool::allocate(executor_ref, checkpoint, policy, slots, mine, layout)?;
        let keys: Vec<_> = (0u32..)
            .zip(&residents)
            .flat_map(|(layer, experts)| experts.iter().map(move |expert| (layer, *expert)))
            .collect();
        fills.extend(made.settle(executor_ref, &keys)?);
        pool = Some(made);
    }
    Ok((Node::new(executor, name, spec.index, model, step, pool), fills))
}

fn weight_bytes_per_token(checkpoint: &Checkpoint) -> u64 {
    let config = checkpoint.config();
    let (mut always, mut experts) = (0, 0);
    for role in checkpoint.roles() {
        let bytes = checkpoint.tensor(role).map_or(0, |tensor| tensor.stored_bytes());
        match role {
            Role::Embedding if !config.tie_word_embeddings => {}
            Role::Layer { part: LayerRole::Expert { .. }, .. } => experts += bytes,
            _ => always += bytes,
        }
    }
    let share = f64::from(config.num_experts_per_tok) / f64::from(config.n_routed_experts.max(1));
    always + (experts as f64 * share) as u64
}

/// Records the copies of forked pages in the caches that a device has.
fn copy_pages(ops: &mut Ops<'_>, model: &Model, step: &Step, copies: &[RowCopy]) {
    let c = &model.config;
    for copy in copies.iter().copied() {
        for (layer, caches) in model.range.clone().zip(&step.caches) {
            ops.layer = Some(layer);
            ops.copy_rows(copy, c.kv_lora_rank + c.qk_rope_head_dim, caches.latent);
            if let Some(indexer) = c.indexer.as_ref().filter(|_| c.has_indexer(layer)) {
                ops.copy_rows(copy, indexer.index_head_dim, caches.index);
            }
        }
    }
}

fn candidates(row: &[u32], vocab_size: usize) -> Result<Candidates, Error> {
    if row[3] > 0 {
        return Err(Error::NotFinite { count: row[3] });
    }
    let pairs = row[4..].chunks_exact(2).take(row[2] as usize).map(|pair| (pair[0], f32::from_bits(pair[1])));
    Ok(Candidates {
        pairs: pairs.collect(),
        max: f32::from_bits(row[0]),
        sum_exp: f32::from_bits(row[1]).into(),
        vocab_size,
    })
}

/// The trace of one step, layer by layer.
#[derive(Default)]
struct TracePart {
    hidden_states: Vec<Vec<f32>>,
    expert_ids: Vec<Vec<i32>>,
    dsa_indices: Vec<Vec<i32>>,
}

/// Steps one after the other become tokens one after the other within each layer.
fn join(parts: &[TracePart]) -> Trace {
    fn layers<T: Copy>(parts: &[TracePart], of: impl Fn(&TracePart) -> &Vec<Vec<T>>) -> Vec<T> {
        let count = parts.first().map_or(0, |part| of(part).len());
        let mut all = Vec::new();
        for layer in 0..count {
            for part in parts {
                all.extend_from_slice(&of(part)[layer]);
            }
        }
        all
    }
    Trace {
        hidden_states: layers(parts, |part| &part.hidden_states),
        expert_ids: layers(parts, |part| &part.expert_ids),
        dsa_indices: layers(parts, |part| &part.dsa_indices),
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("4 bytes"))).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("4 bytes"))).collect()
}
