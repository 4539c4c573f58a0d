//! Who answers the prover: local models, endpoints, or one of each.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::Result;
use porism_loader::{Checkpoint, Options};
use porism_prover::complete::{Complete, CompleteError};
use porism_prover::http::{self, Endpoint, Endpoints, Followed, HttpError, Key};
use porism_prover::pair::Pair;
use porism_prover::prompts::PromptSet;
use porism_prover::settings::Settings;
use porism_prover::store;
use porism_runtime::EngineOptions;
use porism_runtime::engine::Engine;
use porism_runtime::sample::SamplingParams;

use crate::args::{EndpointArgs, ProverArgs};
use crate::domain::Bounds;
use crate::failure::Failure;
use crate::local::{Local, Words};
use crate::model::Model;
use crate::opening::{open_engine, write_heat};
use crate::ui::Ui;

/// Models with a shorter context see one evaluation at a time: more would leave no room for a proof.
const SHORT_CONTEXT: u32 = 8192;
/// So small a model slips at temperature 1 while it recomputes a right proof.
const SMALL_READING_TEMPERATURE: f32 = 0.4;

/// Who writes and who reads, found but not loaded.
pub struct Setup {
    writer: Source,
    /// Another one than the writer.
    reader: Option<Source>,
    pub prompts: PromptSet,
    /// What the local ones know.
    pub bounds: Bounds,
}

/// A model, and where it is.
enum Source {
    Local { model: Model, checkpoint: Box<Checkpoint> },
    Remote(Remote),
}

/// A model at endpoints.
struct Remote {
    endpoints: Vec<Endpoint>,
    parallel: usize,
    /// The file that says where they are, with what makes endpoints of its lines.
    followed: Cell<Option<Followed>>,
    /// Tokens of prompt and answer together, where they tell.
    context: Option<u32>,
}

/// The key of `--endpoint`, unless another variable is named.
const ENDPOINT_KEY: &str = "PORISM_ENDPOINT_KEY";
/// The key of `--verifier-endpoint`, unless another variable is named.
const VERIFIER_KEY: &str = "PORISM_VERIFIER_KEY";

impl Setup {
    /// Finds writer and reader.
    pub fn open(args: &ProverArgs) -> Result<Self> {
        let writer = Source::writer(args)?;
        let reader = Source::reader(args)?.filter(|reader| !reader.is_same(&writer));
        Self::new(args, writer, reader)
    }

    /// Finds whoever reads; nobody else is needed to grade a proof.
    pub fn open_reader(args: &ProverArgs) -> Result<Self> {
        let reader = match Source::reader(args)? {
            Some(reader) => reader,
            None => Source::writer(args)?,
        };
        Self::new(args, reader, None)
    }

    fn new(args: &ProverArgs, writer: Source, reader: Option<Source>) -> Result<Self> {
        let prompts = match &args.prompts {
            Some(file) => PromptSet::open(file)?,
            None => Self::prompts(std::iter::once(&writer).chain(&reader))?,
        };
        let models = std::iter::once(&writer).chain(&reader).filter_map(|source| match source {
            Source::Local { model, .. } => Some(model),
            Source::Remote { .. } => None,
        });
        let bounds = Bounds::of(models)?;
        Ok(Self { writer, reader, prompts, bounds })
    }

    /// The first set that a model brings along.
    fn prompts<'a>(sources: impl Iterator<Item = &'a Source>) -> Result<PromptSet> {
        for source in sources {
            if let Source::Local { model, .. } = source
                && let Some(prompts) = model.prompts()?
            {
                return Ok(prompts);
            }
        }
        Ok(PromptSet::built_in())
    }

    fn reader(&self) -> &Source {
        self.reader.as_ref().unwrap_or(&self.writer)
    }

    /// Whether nobody else reads what the writer wrote.
    pub fn reads_itself(&self) -> bool {
        self.reader.is_none()
    }

    /// Which models write and read.
    pub fn identities(&self) -> Result<(store::Model, store::Model)> {
        Ok((self.writer.identity()?, self.reader().identity()?))
    }

    /// The settings that do not depend on the command.
    pub fn settings(&self, args: &ProverArgs) -> Result<Settings> {
        let usual = Settings::default();
        let reading_temperature =
            if self.reader().is_small() { SMALL_READING_TEMPERATURE } else { usual.reading_temperature };
        let context = match &self.writer {
            Source::Remote(remote) => args.context.into_iter().chain(remote.context).min(),
            Source::Local { .. } => None,
        };
        // Nobody answers at more length than somebody said the context is; what an endpoint told it ends by itself.
        let asked = args.context.filter(|_| context.is_some()).unwrap_or(u32::MAX);
        let settings = Settings {
            context,
            verifications: args.verifications.unwrap_or(usual.verifications),
            meta_verify: !args.no_meta,
            evaluations_to_refine: if self.writer.is_small() { 1 } else { usual.evaluations_to_refine },
            max_tokens_per_proof: args.max_tokens.unwrap_or(usual.max_tokens_per_proof).min(asked),
            max_tokens_per_reading: args
                .max_tokens_per_reading
                .unwrap_or(usual.max_tokens_per_reading)
                .min(asked),
            temperature: args.temperature.unwrap_or(usual.temperature),
            reading_temperature: args.reading_temperature.unwrap_or(reading_temperature),
            top_p: args.top_p.unwrap_or(usual.top_p),
            ..usual
        };
        for temperature in [settings.temperature, settings.reading_temperature] {
            let sampling = SamplingParams { temperature, top_p: settings.top_p, ..SamplingParams::default() };
            sampling.validate().map_err(porism_runtime::Error::from)?;
        }
        Ok(settings)
    }

    /// Loads what has to be loaded and does the work, which is to end after so long; loading does not count.
    pub fn answer<R>(
        &self,
        args: &ProverArgs,
        ui: &Ui,
        time_limit: Option<Duration>,
        work: impl FnOnce(&mut dyn Complete, Option<Instant>) -> R,
    ) -> Result<R> {
        let settings = self.settings(args)?;
        let sources = std::iter::once(&self.writer).chain(&self.reader);
        let opened = sources.map(|source| Opened::new(source, args, &settings, ui));
        let mut opened: Vec<Opened<'_>> = opened.collect::<Result<_>>()?;
        let deadline = time_limit.map(|limit| Instant::now() + limit);
        let mut answerers: Vec<Answerer<'_, '_>> =
            opened.iter_mut().map(|opened| Answerer::new(opened, args, deadline)).collect();
        let result = match answerers.as_mut_slice() {
            [writer, reader] => work(&mut Pair::new(writer.complete(), reader.complete()), deadline),
            [writer] => work(writer.complete(), deadline),
            _ => unreachable!("one or two"),
        };
        for answerer in &answerers {
            if let Answerer::Local(local) = answerer {
                tracing::info!("{}", local.facts());
            }
        }
        drop(answerers);
        // Of two local models it is the writer whose experts matter.
        let engine = opened.iter().find_map(|opened| match opened {
            Opened::Local { engine, .. } => Some(engine),
            Opened::Remote(_) => None,
        });
        if let Some(engine) = engine {
            write_heat(engine, &args.experts, ui);
        }
        Ok(result)
    }
}

impl Source {
    fn writer(args: &ProverArgs) -> Result<Self> {
        let remote = &args.endpoints;
        if remote.endpoint.is_empty() && remote.endpoint_file.is_none() {
            return Self::local(args.model.as_deref(), args);
        }
        let model = remote.endpoint_model.clone().unwrap_or_default();
        let revision = remote.endpoint_revision.clone();
        let key = key(remote.endpoint_key_env.as_deref(), ENDPOINT_KEY)?;
        let make = move |url: &str| {
            Endpoint::new(url, &model, key.clone())
                .map(|endpoint| endpoint.with_revision(revision.as_deref()))
        };
        match &remote.endpoint_file {
            Some(file) => {
                let (followed, endpoints) = Followed::open(file, Box::new(make)).map_err(Failure::usage)?;
                Ok(Self::remote(endpoints, remote.endpoint_parallel, Some(followed)))
            }
            None => {
                let endpoints = remote.endpoint.iter().map(|url| make(url)).collect::<Result<Vec<_>, _>>()?;
                Ok(Self::remote(endpoints, remote.endpoint_parallel, None))
            }
        }
    }

    fn reader(args: &ProverArgs) -> Result<Option<Self>> {
        let remote = &args.endpoints;
        let Some(model) = remote.verifier_model.as_deref() else {
            return Ok(None);
        };
        if remote.verifier_endpoint.is_empty() {
            let local = Self::local(Some(model), args);
            return local.map(Some).map_err(|error| {
                match error.downcast_ref::<porism_loader::Error>() {
                    // It may be meant to be a name there.
                    Some(porism_loader::Error::NoModel { .. }) if !remote.endpoint.is_empty() => {
                        Failure::model(crate::failure::describe(&error))
                            .hint("for a model behind an endpoint, give its address with --verifier-endpoint")
                            .into()
                    }
                    _ => error,
                }
            });
        }
        let own = key(remote.verifier_key_env.as_deref(), VERIFIER_KEY)?;
        let shared =
            if own.is_none() { key(remote.endpoint_key_env.as_deref(), ENDPOINT_KEY)? } else { None };
        // The key of an address goes to no other one.
        let is_known = |url: &str| remote.endpoint.iter().any(|known| known == url);
        let key = |url: &str| own.clone().or_else(|| shared.clone().filter(|_| is_known(url)));
        let parallel = remote.verifier_parallel.unwrap_or(remote.endpoint_parallel);
        let endpoint = |url: &String| Endpoint::new(url, model, key(url));
        let endpoints = remote.verifier_endpoint.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Self::remote(endpoints, parallel, None)))
    }

    fn local(name: Option<&str>, args: &ProverArgs) -> Result<Self> {
        let model = Model::find_or_embedded(name)?;
        let checkpoint = model.checkpoint(Options { allow_nan: args.device.allow_nan })?;
        Ok(Self::Local { model, checkpoint: Box::new(checkpoint) })
    }

    /// Endpoints, asked what they are; whoever does not tell is taken as it comes.
    fn remote(endpoints: Vec<Endpoint>, parallel: u32, followed: Option<Followed>) -> Self {
        /// So long an endpoint may take to tell of itself.
        const WAIT: Duration = Duration::from_secs(3);
        let told: Vec<http::About> = std::thread::scope(|scope| {
            let ask = |endpoint| scope.spawn(move || http::about(endpoint, WAIT));
            let asked: Vec<_> = endpoints.iter().map(ask).collect();
            asked.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
        });
        for (endpoint, about) in endpoints.iter().zip(&told) {
            if !about.models.is_empty() && !about.models.iter().any(|model| model == endpoint.model()) {
                let models: Vec<&str> = about.models.iter().map(String::as_str).take(8).collect();
                tracing::info!("{}: lists other models: {}", endpoint.name(), models.join(", "));
            }
        }
        let context = told.iter().filter_map(|about| about.context).min();
        let with_slots = |(endpoint, about): (Endpoint, &http::About)| endpoint.with_slots(about.slots);
        let endpoints = endpoints.into_iter().zip(&told).map(with_slots).collect();
        Self::Remote(Remote {
            endpoints,
            parallel: parallel as usize,
            followed: Cell::new(followed),
            context,
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Local { model, .. }, Self::Local { model: other, .. }) => model == other,
            _ => false,
        }
    }

    fn is_small(&self) -> bool {
        match self {
            Self::Local { checkpoint, .. } => checkpoint.config().max_position_embeddings < SHORT_CONTEXT,
            Self::Remote(_) => false,
        }
    }

    fn identity(&self) -> Result<store::Model> {
        Ok(match self {
            Self::Local { model, .. } => store::Model {
                name: model.label(),
                fingerprint: model.fingerprint()?,
                revision: None,
                endpoints: Vec::new(),
            },
            Self::Remote(remote) => http::identity(&remote.endpoints),
        })
    }
}

/// The key in an environment variable. One that is named has to be there; the usual one need not.
fn key(named: Option<&str>, usual: &str) -> Result<Option<Key>> {
    let variable = named.unwrap_or(usual);
    let hint = || format!("`export {variable}=…` before the command, or name another variable");
    let value = match std::env::var(variable) {
        Ok(value) if !value.trim().is_empty() => value,
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(Failure::usage(format!("the key in {variable} has characters that cannot be sent"))
                .hint(hint())
                .into());
        }
        _ if named.is_none() => return Ok(None),
        _ => {
            let message = format!("the environment variable {variable} is to hold a key and is not set");
            return Err(Failure::usage(message).hint(hint()).into());
        }
    };
    match Key::new(&value) {
        Ok(key) => Ok(Some(key)),
        Err(error) => Err(Failure::usage(format!("{variable}: {error}")).hint(hint()).into()),
    }
}

/// A model that is ready to answer.
enum Opened<'c> {
    Local { engine: Box<Engine<'c>>, words: Option<Box<Words>> },
    Remote(Option<Box<Endpoints>>),
}

impl<'c> Opened<'c> {
    fn new(source: &'c Source, args: &ProverArgs, settings: &Settings, ui: &Ui) -> Result<Self> {
        match source {
            Source::Local { model, checkpoint } => {
                let words = Words::open(model, checkpoint)?;
                let engine = engine(model, checkpoint, args, settings, ui)?;
                Ok(Self::Local { engine: Box::new(engine), words: Some(Box::new(words)) })
            }
            Source::Remote(remote) => {
                for endpoint in remote.endpoints.iter().filter(|endpoint| endpoint.shows_key()) {
                    ui.warn(&format!(
                        "{}: the key is sent without encryption, for others to read",
                        endpoint.name()
                    ));
                }
                let options = options(&args.endpoints, remote.parallel);
                let endpoints = Endpoints::new(remote.endpoints.clone(), options);
                let endpoints = match remote.followed.take() {
                    Some(followed) => endpoints.following(followed),
                    None => endpoints,
                };
                Ok(Self::Remote(Some(Box::new(endpoints))))
            }
        }
    }
}

fn options(args: &EndpointArgs, parallel: usize) -> http::Options {
    let usual = http::Options::default();
    http::Options {
        parallel,
        silence: args.endpoint_timeout,
        outage: args.endpoint_outage.unwrap_or(usual.outage),
        // Whoever says how long means it, also of a server that is not there yet.
        grace: args.endpoint_outage.unwrap_or(usual.grace),
        tries: args.endpoint_tries,
        ..usual
    }
}

/// Loads the weights.
fn engine<'c>(
    model: &Model,
    checkpoint: &'c Checkpoint,
    args: &ProverArgs,
    settings: &Settings,
    ui: &Ui,
) -> Result<Engine<'c>> {
    let limit = checkpoint.config().max_position_embeddings;
    // A prompt holds a proof and its evaluations, and the answer may be as long as a proof.
    let usual = settings.max_tokens_per_proof.saturating_add(settings.max_tokens_per_reading);
    let context = match args.context {
        Some(asked) if asked > limit => {
            let (asked, limit) = (asked as usize, limit as usize);
            return Err(porism_runtime::Error::ContextBeyondModel { asked, limit }.into());
        }
        asked => asked.unwrap_or(limit.min(usual)) as usize,
    };
    let sequences = args.parallel as usize;
    // Sequences that ended are kept for what others share with them, and few grow as long as they may.
    let cache_tokens = if context <= 4096 { None } else { Some(context * sequences.div_ceil(4).max(1)) };
    let options = EngineOptions { sequences: sequences + 2, cache_tokens, ..EngineOptions::new(context) };
    open_engine(ui, model, checkpoint, &args.device, Some(&args.experts), options)
}

/// An answerer that lives in a list of them.
enum Answerer<'e, 'c> {
    Local(Box<Local<'e, 'c>>),
    Remote(Box<Endpoints>),
}

impl<'e, 'c> Answerer<'e, 'c> {
    fn new(opened: &'e mut Opened<'c>, args: &ProverArgs, deadline: Option<Instant>) -> Self {
        match opened {
            Opened::Local { engine, words } => {
                let words = *words.take().expect("each is started once");
                Self::Local(Box::new(Local::new(engine, words, args.parallel as usize, deadline)))
            }
            Opened::Remote(endpoints) => Self::Remote(endpoints.take().expect("each is started once")),
        }
    }

    fn complete(&mut self) -> &mut dyn Complete {
        match self {
            Self::Local(local) => local.as_mut(),
            Self::Remote(endpoints) => endpoints.as_mut(),
        }
    }
}

/// The error behind "nobody answers any more", of its own type, so that its exit code and remedy are found.
pub fn unwrap(error: CompleteError) -> anyhow::Error {
    let CompleteError::Broken(error) = error else {
        return error.into();
    };
    let error = match error.downcast::<HttpError>() {
        Ok(error) => return (*error).into(),
        Err(error) => error,
    };
    match error.downcast::<porism_runtime::Error>() {
        Ok(error) => (*error).into(),
        Err(error) => anyhow::Error::from_boxed(error),
    }
}
