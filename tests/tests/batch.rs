//! Determinism: a sequence gives the same bits alone or among others, computed once or anew, in whatever steps.

use libtest_mimic::{Arguments, Failed, Trial};
use porism_loader::{Checkpoint, Options};
use porism_runtime::cache::SequenceId;
use porism_runtime::engine::{Engine, Output, Reduced, RowSampling, Schedule, Work};
use porism_runtime::sample::{Candidates, Choice, Sampler, SamplingParams};
use porism_runtime::{DeviceId, EngineOptions};
use porism_tests::synthetic::{Dtypes, Synthetic};
use porism_tests::{every_adapter, short_name};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

/// Sequences of a batch.
const BATCH: usize = 8;
/// Tokens generated for each.
const GENERATED: usize = 10;
const VOCAB_SIZE: u32 = 300;

fn main() {
    let arguments = Arguments::from_args();
    let mut devices = vec![("host".to_owned(), DeviceId::Host)];
    devices.extend(every_adapter().iter().map(|adapter| (short_name(adapter), adapter.index)));
    let mut trials = Vec::new();
    for (name, device) in devices {
        trials
            .push(Trial::test(format!("same_bits_alone_and_in_a_batch::{name}"), move || on_device(device)));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// One sequence: its prompt, its draws and what came of it.
struct Run {
    prompt: Vec<u32>,
    sampler: Sampler,
    tokens: Vec<u32>,
    /// Bits of what each token was chosen from.
    seen: Vec<Vec<u64>>,
}

impl Run {
    /// Number `index` of the batch: prompts of 3, 9, 15 … tokens, so that some select positions at once and some later.
    fn new(index: usize) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(index as u64);
        let params = SamplingParams { temperature: 0.9, top_p: 0.95, ..SamplingParams::greedy() };
        Run {
            prompt: (0..3 + 6 * index).map(|_| generator.next_u32() % VOCAB_SIZE).collect(),
            sampler: Sampler::new(params, 100 + index as u64).expect("the parameters are in range"),
            tokens: vec![],
            seen: vec![],
        }
    }

    /// What goes into the next step.
    fn next(&self) -> Vec<u32> {
        self.tokens.last().map_or(self.prompt.clone(), |token| vec![*token])
    }

    fn take(&mut self, candidates: &Candidates, engine: &mut Engine<'_>, row: usize) -> Result<(), Failed> {
        let logits = engine.read_logits(row)?;
        let mut bits: Vec<u64> = logits.iter().map(|logit| logit.to_bits().into()).collect();
        bits.extend([u64::from(candidates.max.to_bits()), candidates.sum_exp.to_bits()]);
        let mut pairs: Vec<u64> = candidates
            .pairs
            .iter()
            .map(|(id, logit)| u64::from(*id) << 32 | u64::from(logit.to_bits()))
            .collect();
        pairs.sort_unstable();
        bits.extend(pairs);
        self.seen.push(bits);
        let token = match self.sampler.choose(candidates)? {
            Choice::Token(token) => token,
            Choice::NeedLogits => self.sampler.choose_full(&logits)?,
        };
        self.tokens.push(token);
        Ok(())
    }

    /// Whether `other` saw the same from its first token on, as far as it got.
    fn compare(&self, other: &Run, what: &str) -> Result<(), Failed> {
        for (step, (a, b)) in self.seen.iter().zip(&other.seen).enumerate() {
            if a != b {
                let count = a.iter().zip(b).filter(|(a, b)| a != b).count();
                let prompt = self.prompt.len();
                return Err(format!(
                    "{what}, prompt of {prompt} tokens, token {step}: {count} numbers differ"
                )
                .into());
            }
        }
        if self.tokens != other.tokens {
            return Err(format!("{what}: tokens {:?} and {:?}", self.tokens, other.tokens).into());
        }
        Ok(())
    }
}

/// One step of some sequences; each chooses its next token.
fn step(engine: &mut Engine<'_>, runs: &mut [(SequenceId, &mut Run)]) -> Result<(), Failed> {
    let next: Vec<Vec<u32>> = runs.iter().map(|(_, run)| run.next()).collect();
    let work: Vec<Work<'_>> =
        runs.iter().zip(&next).map(|((sequence, _), tokens)| Work { sequence: *sequence, tokens }).collect();
    let sampling = RowSampling { temperature: 0.9, repetition_penalty: 1.0, seen: &[] };
    let Reduced::Candidates(candidates) =
        engine.step(&work, Output::Candidates(&vec![sampling; runs.len()]))?
    else {
        return Err("no candidates".into());
    };
    for (row, ((_, run), candidates)) in runs.iter_mut().zip(&candidates).enumerate() {
        run.take(candidates, engine, row)?;
    }
    Ok(())
}

fn open(engine: &mut Engine<'_>) -> Result<SequenceId, Failed> {
    Ok(engine.open_sequence().ok_or("no sequence is free")?)
}

fn on_device(device: DeviceId) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    Synthetic::new(json!({ "vocab_size": VOCAB_SIZE, "hidden_size": 200 }), Dtypes::fp8())
        .write(directory.path());
    let checkpoint = Checkpoint::open(directory.path(), Options::default())?;
    let options = EngineOptions { sequences: BATCH, ..EngineOptions::new(200) };
    let mut engine = Engine::open(&checkpoint, &[device.into()], &options, &mut |_| Ok(()))?;
    let engine = &mut engine;

    let mut alone = Vec::new();
    for index in 0..BATCH {
        let mut run = Run::new(index);
        let sequence = open(engine)?;
        for _ in 0..GENERATED {
            step(engine, &mut [(sequence, &mut run)])?;
        }
        engine.close_sequence(sequence);
        alone.push(run);
    }
    if alone.iter().all(|run| run.tokens == alone[0].tokens) {
        return Err("all sequences say the same: nothing could be told apart".into());
    }
    eight_at_once(engine, &alone)?;
    joining_and_leaving(engine, &alone)?;
    whatever_the_steps(engine)
}

/// All prompts in one step, then a token of each per step.
fn eight_at_once(engine: &mut Engine<'_>, alone: &[Run]) -> Result<(), Failed> {
    let mut runs: Vec<Run> = (0..BATCH).map(Run::new).collect();
    let sequences = (0..BATCH).map(|_| open(engine)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..GENERATED {
        let mut pairs: Vec<(SequenceId, &mut Run)> = sequences.iter().copied().zip(&mut runs).collect();
        step(engine, &mut pairs)?;
    }
    sequences.into_iter().for_each(|sequence| engine.close_sequence(sequence));
    alone.iter().zip(&runs).try_for_each(|(alone, run)| alone.compare(run, "eight at once"))
}

/// One more sequence joins at every second step, in reverse order, so that prompts and single tokens share steps and
/// cache pages lie elsewhere. Sequence 3 is put aside after four tokens and computed anew from all it had.
fn joining_and_leaving(engine: &mut Engine<'_>, alone: &[Run]) -> Result<(), Failed> {
    let mut waiting: Vec<Run> = (0..BATCH).map(Run::new).collect();
    let mut active: Vec<(SequenceId, Run)> = Vec::new();
    let mut again = true;
    for round in 0.. {
        if round % 2 == 0
            && let Some(run) = waiting.pop()
        {
            active.push((open(engine)?, run));
        }
        if active.is_empty() {
            break;
        }
        let mut pairs: Vec<(SequenceId, &mut Run)> =
            active.iter_mut().map(|(sequence, run)| (*sequence, run)).collect();
        step(engine, &mut pairs)?;
        let put_aside =
            active.iter_mut().find(|(_, run)| run.prompt == alone[3].prompt && run.tokens.len() == 4);
        if again && let Some((sequence, run)) = put_aside {
            again = false;
            *sequence = recomputed(engine, *sequence, run, &alone[3])?;
        }
        let (done, rest): (Vec<_>, Vec<_>) =
            active.into_iter().partition(|(_, run)| run.tokens.len() == GENERATED);
        active = rest;
        for (sequence, run) in done {
            engine.close_sequence(sequence);
            let index = (run.prompt.len() - 3) / 6;
            alone[index].compare(&run, "joining and leaving")?;
        }
    }
    if again { Err("sequence 3 was never put aside".into()) } else { Ok(()) }
}

/// Closes a sequence and computes prompt and tokens so far anew in another one, all but the last token, which is still to
/// come.
fn recomputed(
    engine: &mut Engine<'_>,
    sequence: SequenceId,
    run: &Run,
    alone: &Run,
) -> Result<SequenceId, Failed> {
    engine.close_sequence(sequence);
    let reopened = open(engine)?;
    let (_, cached) = run.tokens.split_last().ok_or("no tokens")?;
    let tokens = [&run.prompt[..], cached].concat();
    engine.step(&[Work { sequence: reopened, tokens: &tokens }], Output::Argmax)?;
    // The last of these logits are those that token 3 was chosen from.
    let logits = engine.read_logits(0)?;
    let same = logits.iter().zip(&alone.seen[cached.len()]).all(|(a, b)| u64::from(a.to_bits()) == *b);
    if same { Ok(reopened) } else { Err("computed anew after it was closed: other logits".into()) }
}

/// Logits of a long prompt in one step, in steps of 3, 7 and 9, and token by token.
fn whatever_the_steps(engine: &mut Engine<'_>) -> Result<(), Failed> {
    let ids = Run::new(12).prompt;
    let bits = |engine: &mut Engine<'_>, schedule| -> Result<Vec<u32>, Failed> {
        Ok(engine.logits(&ids, schedule, false)?.logits.iter().map(|logit| logit.to_bits()).collect())
    };
    let expected = bits(engine, Schedule::Prefill)?;
    for schedule in [Schedule::Chunks(3), Schedule::Chunks(7), Schedule::Chunks(9), Schedule::Steps] {
        let found = bits(engine, schedule)?;
        let count = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        if count > 0 {
            return Err(format!(
                "{schedule:?}: {count} of {} logits have other bits than in prefill",
                found.len()
            )
            .into());
        }
    }
    Ok(())
}
