//! A workgroup of a kernel, interpreted: naga's IR for all lanes in step, to see which addresses they load. Nothing is
//! computed for its result, so buffers have made-up contents, but everything that addresses depend on is computed truly.
//!
//! What is counted: the 32-byte sectors that a wave of 32 or 64 lanes touches in a buffer against the least in which the
//! words it asks for could lie. Loads between two barriers or two turns of a loop are one request, since they are in flight
//! together: a lane that takes 64 bytes by four loads uses its sectors wholly.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use naga::proc::IndexableLength;
use naga::valid::{
    Capabilities, FunctionInfo, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
};
use naga::{
    AddressSpace, AtomicFunction, BinaryOperator, Block, BuiltIn, Expression, Function, GatherMode,
    GlobalVariable, Handle, Literal, LocalVariable, MathFunction, Module, RelationalFunction, Scalar,
    ScalarKind, Statement, SwizzleComponent, Type, TypeInner, UnaryOperator, VectorSize,
};

/// Bytes of a sector: what memory is fetched in.
const SECTOR: u32 = 32;

/// Sectors that were touched, and the least there could have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sectors {
    /// Touched.
    pub touched: u64,
    /// In which the same words would fit.
    pub least: u64,
}

impl Sectors {
    /// How many times too many.
    pub fn ratio(self) -> f64 {
        self.touched as f64 / self.least.max(1) as f64
    }
}

/// What a workgroup did.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Loads of each binding, for waves of 32 and of 64 lanes.
    pub loads: BTreeMap<u32, [Sectors; 2]>,
    /// Instructions that the workgroup executes one after the other, its lanes in step: a load or a store is one, arithmetic
    /// one for each component, and what only names a value is none.
    pub operations: u64,
}

/// What buffers hold before the dispatch: the word `at` of binding `binding`.
pub type Contents<'c> = dyn Fn(u32, u32) -> u32 + 'c;

/// A dispatch of a kernel as it is interpreted.
pub struct Program {
    module: Module,
    info: ModuleInfo,
    params: Vec<u32>,
    lanes: usize,
}

impl Program {
    /// A linked shader with its override constants and the bytes of its `Params`.
    ///
    /// # Panics
    /// Where naga does not take it.
    pub fn new<'o>(wgsl: &str, overrides: impl Iterator<Item = (&'o str, u32)>, params: &[u8]) -> Self {
        let module = naga::front::wgsl::parse_str(wgsl).expect("the build has parsed it");
        let mut validator = Validator::new(
            ValidationFlags::all(),
            Capabilities::IMMEDIATES
                | Capabilities::SUBGROUP
                | Capabilities::SUBGROUP_BARRIER
                | Capabilities::SHADER_FLOAT16
                | Capabilities::SHADER_FLOAT16_IN_FLOAT32,
        );
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
        let info = validator.validate(&module).expect("the build has validated it");
        let constants: naga::back::PipelineConstants =
            overrides.map(|(name, value)| (name.to_owned(), f64::from(value))).collect();
        let entry = Some((naga::ShaderStage::Compute, "main"));
        let (module, info) =
            naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
                .expect("overrides are u32");
        let (module, info) = (module.into_owned(), info.into_owned());
        let lanes = module.entry_points[0].workgroup_size.iter().product::<u32>() as usize;
        let params = params.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        Program { module, info, params, lanes }
    }

    /// Lanes of a workgroup.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Runs workgroup `group` of `groups`.
    pub fn run(&self, group: [u32; 3], groups: [u32; 3], contents: &Contents<'_>) -> Traffic {
        let shared = self.module.global_variables.iter();
        let shared = shared
            .filter(|(_, variable)| variable.space == AddressSpace::WorkGroup)
            .map(|(handle, variable)| (handle, vec![0; self.words(variable.ty)]))
            .collect();
        let mut machine = Machine {
            program: self,
            contents,
            shared,
            written: HashMap::new(),
            stack: Vec::new(),
            requests: HashMap::new(),
            traffic: Traffic::default(),
        };
        let entry = &self.module.entry_points[0].function;
        let arguments = entry.arguments.iter().map(|argument| {
            let Some(naga::Binding::BuiltIn(built_in)) = argument.binding else { panic!("a built-in") };
            self.built_in(built_in, group, groups)
        });
        let arguments = arguments.collect();
        let all = Mask::first(self.lanes);
        machine.call(entry, self.info.get_entry_point(0), arguments, all);
        machine.answer();
        machine.traffic
    }

    fn built_in(&self, built_in: BuiltIn, group: [u32; 3], groups: [u32; 3]) -> Value {
        let lanes = self.lanes;
        let each = |of: &dyn Fn(u32) -> u32| Value::words(1, (0..lanes as u32).map(of).collect());
        let same = |of: [u32; 3]| Value::words(3, of.repeat(lanes));
        match built_in {
            BuiltIn::WorkGroupId => same(group),
            BuiltIn::NumWorkGroups => same(groups),
            BuiltIn::LocalInvocationIndex => each(&|lane| lane),
            BuiltIn::SubgroupId => each(&|lane| lane / 32),
            BuiltIn::SubgroupSize => each(&|_| 32),
            BuiltIn::SubgroupInvocationId => each(&|lane| lane % 32),
            other => panic!("{other:?} is used by no kernel"),
        }
    }

    fn words(&self, ty: Handle<Type>) -> usize {
        self.words_of(&self.module.types[ty].inner)
    }

    fn words_of(&self, inner: &TypeInner) -> usize {
        match inner {
            TypeInner::Scalar(_) | TypeInner::Atomic(_) => 1,
            TypeInner::Vector { size, .. } => *size as usize,
            TypeInner::Array { base, size, .. } => {
                match size.resolve(self.module.to_ctx()).expect("override constants are set") {
                    IndexableLength::Known(count) => self.words(*base) * count as usize,
                    IndexableLength::Dynamic => 0,
                }
            }
            TypeInner::Struct { members, .. } => members.iter().map(|member| self.words(member.ty)).sum(),
            other => panic!("{other:?} is no value of a kernel"),
        }
    }

    /// Words before the part `index` of a value of this type, and words of the part.
    fn part(&self, inner: &TypeInner, index: usize) -> (usize, usize) {
        match inner {
            TypeInner::Vector { .. } => (index, 1),
            TypeInner::Array { base, .. } => (index * self.words(*base), self.words(*base)),
            TypeInner::Struct { members, .. } => {
                (members[..index].iter().map(|m| self.words(m.ty)).sum(), self.words(members[index].ty))
            }
            other => panic!("{other:?} has no parts"),
        }
    }
}

/// Some of up to 256 lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mask([u64; 4]);

impl Mask {
    fn first(count: usize) -> Self {
        (0..count).fold(Mask::default(), |mut mask, lane| {
            mask.set(lane);
            mask
        })
    }

    fn set(&mut self, lane: usize) {
        self.0[lane / 64] |= 1 << (lane % 64);
    }

    fn has(self, lane: usize) -> bool {
        self.0[lane / 64] >> (lane % 64) & 1 == 1
    }

    fn any(self) -> bool {
        self.0.iter().any(|word| *word != 0)
    }

    fn and(self, other: Mask) -> Mask {
        Mask(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    fn or(self, other: Mask) -> Mask {
        Mask(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    fn without(self, other: Mask) -> Mask {
        Mask(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }
}

/// Where a pointer points to.
#[derive(Clone, Copy)]
enum Root {
    Global(Handle<GlobalVariable>),
    /// A local variable: the frame and its first word there.
    Local(usize, usize),
}

/// What an expression is, for every lane.
#[derive(Clone)]
enum Value {
    /// `width` words of each lane.
    Words { width: usize, words: Rc<Vec<u32>> },
    /// Words from the root on.
    Pointer { root: Root, offsets: Rc<Vec<u32>> },
}

impl Value {
    fn words(width: usize, words: Vec<u32>) -> Self {
        Value::Words { width, words: Rc::new(words) }
    }

    fn get(&self) -> (usize, &[u32]) {
        match self {
            Value::Words { width, words } => (*width, words),
            Value::Pointer { .. } => panic!("a pointer is no number"),
        }
    }
}

/// A function being run.
struct Frame<'m> {
    function: &'m Function,
    info: &'m FunctionInfo,
    arguments: Vec<Value>,
    values: Vec<Option<Value>>,
    /// First word of each local variable.
    locals: Vec<usize>,
    depth: usize,
    loops: Vec<[Mask; 2]>,
    result: Option<Vec<u32>>,
}

struct Machine<'m> {
    program: &'m Program,
    contents: &'m Contents<'m>,
    shared: HashMap<Handle<GlobalVariable>, Vec<u32>>,
    written: HashMap<(u32, u32), u32>,
    /// Local variables of each frame: those of lane 0, of lane 1, …
    stack: Vec<(usize, Vec<u32>)>,
    /// Words that each wave of 32 lanes has asked for since the last barrier or turn, by binding and wave.
    requests: HashMap<(u32, usize), Vec<u32>>,
    traffic: Traffic,
}

impl<'m> Machine<'m> {
    /// Counts what was asked for.
    fn answer(&mut self) {
        let mut wide: HashMap<(u32, usize), Vec<u32>> = HashMap::new();
        for ((binding, wave), words) in self.requests.drain() {
            wide.entry((binding, wave / 2)).or_default().extend(&words);
            count(&mut self.traffic.loads.entry(binding).or_default()[0], words);
        }
        for ((binding, _), words) in wide {
            count(&mut self.traffic.loads.entry(binding).or_default()[1], words);
        }
    }

    fn call(
        &mut self,
        function: &'m Function,
        info: &'m FunctionInfo,
        arguments: Vec<Value>,
        mask: Mask,
    ) -> Option<Value> {
        let lanes = self.program.lanes;
        let mut words = 0;
        let locals = function.local_variables.iter();
        let locals = locals.map(|(_, variable)| {
            words += self.program.words(variable.ty);
            words - self.program.words(variable.ty)
        });
        let locals = locals.collect();
        let depth = self.stack.len();
        self.stack.push((words, vec![0; words * lanes]));
        let values = vec![None; function.expressions.len()];
        let mut frame =
            Frame { function, info, arguments, values, locals, depth, loops: vec![], result: None };
        for (handle, variable) in function.local_variables.iter() {
            if let Some(init) = variable.init {
                let value = self.eval(&mut frame, init, mask);
                let root = self.local(&frame, handle);
                self.store(root, &vec![0; lanes], &value, mask);
            }
        }
        let mut active = mask;
        self.block(&mut frame, &function.body, &mut active);
        self.stack.pop();
        let ty = function.result.as_ref()?.ty;
        let words = frame.result.unwrap_or_else(|| vec![0; self.program.words(ty) * lanes]);
        Some(Value::words(self.program.words(ty), words))
    }

    fn local(&self, frame: &Frame<'m>, variable: Handle<LocalVariable>) -> Root {
        Root::Local(frame.depth, frame.locals[variable.index()])
    }

    fn block(&mut self, frame: &mut Frame<'m>, block: &'m Block, active: &mut Mask) {
        for statement in block.iter() {
            if !active.any() {
                return;
            }
            self.statement(frame, statement, active);
        }
    }

    fn statement(&mut self, frame: &mut Frame<'m>, statement: &'m Statement, active: &mut Mask) {
        match statement {
            Statement::Emit(range) => {
                for expression in range.clone() {
                    self.traffic.operations += self.cost(frame, expression);
                    let value = self.compute(frame, expression, *active);
                    frame.values[expression.index()] = Some(value);
                }
            }
            Statement::Block(block) => self.block(frame, block, active),
            Statement::If { condition, accept, reject } => {
                let yes = self.lanes_where(frame, *condition, *active);
                let (mut yes, mut no) = (active.and(yes), active.without(yes));
                self.block(frame, accept, &mut yes);
                self.block(frame, reject, &mut no);
                *active = yes.or(no);
            }
            Statement::Loop { body, continuing, break_if } => {
                frame.loops.push([Mask::default(); 2]);
                let mut turning = *active;
                while turning.any() {
                    self.answer();
                    self.block(frame, body, &mut turning);
                    let this = frame.loops.last_mut().expect("pushed above");
                    turning = turning.or(std::mem::take(&mut this[1]));
                    self.block(frame, continuing, &mut turning);
                    if let Some(condition) = break_if {
                        let ends = turning.and(self.lanes_where(frame, *condition, turning));
                        turning = turning.without(ends);
                        let this = frame.loops.last_mut().expect("pushed above");
                        this[0] = this[0].or(ends);
                    }
                }
                self.answer();
                *active = frame.loops.pop().expect("pushed above")[0];
            }
            Statement::Break | Statement::Continue => {
                let which = usize::from(matches!(statement, Statement::Continue));
                let this = frame.loops.last_mut().expect("inside a loop");
                this[which] = this[which].or(std::mem::take(active));
            }
            Statement::Return { value } => {
                if let Some(value) = value {
                    let value = self.eval(frame, *value, *active);
                    let (width, words) = value.get();
                    let lanes = self.program.lanes;
                    let result = frame.result.get_or_insert_with(|| vec![0; width * lanes]);
                    for lane in (0..lanes).filter(|lane| active.has(*lane)) {
                        result[lane * width..][..width].copy_from_slice(&words[lane * width..][..width]);
                    }
                }
                *active = Mask::default();
            }
            Statement::ControlBarrier(_) | Statement::MemoryBarrier(_) => self.answer(),
            Statement::Store { pointer, value } => {
                self.traffic.operations += 1;
                let value = self.eval(frame, *value, *active);
                let Value::Pointer { root, offsets } = self.eval(frame, *pointer, *active) else {
                    panic!("a store wants a pointer")
                };
                self.store(root, &offsets, &value, *active);
            }
            Statement::Atomic { pointer, fun, value, result } => {
                self.traffic.operations += 1;
                let value = self.eval(frame, *value, *active);
                let Value::Pointer { root, offsets } = self.eval(frame, *pointer, *active) else {
                    panic!("an atomic wants a pointer")
                };
                let mut old = vec![0; self.program.lanes];
                for lane in (0..self.program.lanes).filter(|lane| active.has(*lane)) {
                    let operand = value.get().1[lane];
                    let before = self.word(root, lane, offsets[lane]);
                    let after = match fun {
                        AtomicFunction::Add => before.wrapping_add(operand),
                        AtomicFunction::Subtract => before.wrapping_sub(operand),
                        AtomicFunction::Max => before.max(operand),
                        AtomicFunction::Min => before.min(operand),
                        AtomicFunction::InclusiveOr => before | operand,
                        AtomicFunction::Exchange { compare: None } => operand,
                        other => panic!("{other:?} is used by no kernel"),
                    };
                    self.set_word(root, lane, offsets[lane], after);
                    old[lane] = before;
                }
                if let Some(result) = result {
                    frame.values[result.index()] = Some(Value::words(1, old));
                }
            }
            Statement::WorkGroupUniformLoad { pointer, result } => {
                self.answer();
                let value = self.load(frame, *pointer, *active);
                frame.values[result.index()] = Some(value);
            }
            Statement::Call { function, arguments, result } => {
                let arguments =
                    arguments.iter().map(|argument| self.eval(frame, *argument, *active)).collect();
                let program = self.program;
                let (callee, info) = (&program.module.functions[*function], &program.info[*function]);
                let value = self.call(callee, info, arguments, *active);
                if let Some(result) = result {
                    frame.values[result.index()] = value;
                }
            }
            Statement::SubgroupGather { mode, argument, result } => {
                self.traffic.operations += 1;
                let value = self.gather(frame, *mode, *argument, *active);
                frame.values[result.index()] = Some(value);
            }
            other => panic!("{other:?} is used by no kernel"),
        }
    }

    fn gather(
        &mut self,
        frame: &mut Frame<'m>,
        mode: GatherMode,
        argument: Handle<Expression>,
        active: Mask,
    ) -> Value {
        let value = self.eval(frame, argument, active);
        let (width, words) = value.get();
        let lanes = self.program.lanes;
        let with = match mode {
            GatherMode::BroadcastFirst => None,
            GatherMode::Broadcast(with)
            | GatherMode::Shuffle(with)
            | GatherMode::ShuffleXor(with)
            | GatherMode::ShuffleUp(with)
            | GatherMode::ShuffleDown(with) => Some(self.eval(frame, with, active)),
            other => panic!("{other:?} is used by no kernel"),
        };
        let from = |lane: usize| {
            let with = with.as_ref().map_or(0, |with| with.get().1[lane] as usize);
            let first = lane / 32 * 32;
            let inside = lane % 32;
            let other = match mode {
                GatherMode::ShuffleXor(_) => inside ^ with,
                GatherMode::ShuffleUp(_) => inside.saturating_sub(with),
                GatherMode::ShuffleDown(_) => inside + with,
                _ => with,
            };
            (first + other % 32).min(lanes - 1)
        };
        let found = (0..lanes).flat_map(|lane| &words[from(lane) * width..][..width]).copied().collect();
        Value::words(width, found)
    }

    fn lanes_where(&mut self, frame: &mut Frame<'m>, condition: Handle<Expression>, active: Mask) -> Mask {
        let value = self.eval(frame, condition, active);
        let mut mask = Mask::default();
        let (_, words) = value.get();
        words.iter().enumerate().filter(|(_, word)| **word != 0).for_each(|(lane, _)| mask.set(lane));
        mask
    }

    /// Instructions of an expression.
    fn cost(&self, frame: &Frame<'m>, expression: Handle<Expression>) -> u64 {
        match &frame.function.expressions[expression] {
            Expression::Load { pointer } => {
                // Local variables are registers.
                let mut root = *pointer;
                while let Expression::Access { base, .. } | Expression::AccessIndex { base, .. } =
                    &frame.function.expressions[root]
                {
                    root = *base;
                }
                let local = matches!(
                    frame.function.expressions[root],
                    Expression::LocalVariable(_) | Expression::FunctionArgument(_)
                );
                u64::from(!local)
            }
            Expression::Unary { .. }
            | Expression::Binary { .. }
            | Expression::Select { .. }
            | Expression::Relational { .. }
            | Expression::Math { .. } => self.program.words_of(self.inner(frame, expression)) as u64,
            Expression::As { convert, .. } => {
                u64::from(convert.is_some()) * self.program.words_of(self.inner(frame, expression)) as u64
            }
            _ => 0,
        }
    }

    fn inner(&self, frame: &Frame<'m>, expression: Handle<Expression>) -> &'m TypeInner {
        frame.info[expression].ty.inner_with(&self.program.module.types)
    }

    /// The value of an expression that has been emitted or need not be.
    fn eval(&mut self, frame: &mut Frame<'m>, expression: Handle<Expression>, active: Mask) -> Value {
        if let Some(value) = &frame.values[expression.index()] {
            return value.clone();
        }
        let value = self.compute(frame, expression, active);
        let stays = matches!(
            frame.function.expressions[expression],
            Expression::Literal(_)
                | Expression::Constant(_)
                | Expression::ZeroValue(_)
                | Expression::GlobalVariable(_)
                | Expression::LocalVariable(_)
                | Expression::FunctionArgument(_)
        );
        if stays {
            frame.values[expression.index()] = Some(value.clone());
        }
        value
    }

    fn compute(&mut self, frame: &mut Frame<'m>, expression: Handle<Expression>, active: Mask) -> Value {
        let lanes = self.program.lanes;
        let function = frame.function;
        match &function.expressions[expression] {
            Expression::FunctionArgument(number) => frame.arguments[*number as usize].clone(),
            Expression::GlobalVariable(variable) => {
                Value::Pointer { root: Root::Global(*variable), offsets: Rc::new(vec![0; lanes]) }
            }
            Expression::LocalVariable(variable) => {
                Value::Pointer { root: self.local(frame, *variable), offsets: Rc::new(vec![0; lanes]) }
            }
            Expression::Load { pointer } => self.load(frame, *pointer, active),
            Expression::Access { base, index } => {
                let index = self.eval(frame, *index, active);
                let indices: Vec<usize> = index.get().1.iter().map(|index| *index as usize).collect();
                self.access(frame, *base, active, |lane| indices[lane])
            }
            Expression::AccessIndex { base, index } => self.access(frame, *base, active, |_| *index as usize),
            Expression::Compose { components, .. } => {
                let parts: Vec<Value> = components.iter().map(|c| self.eval(frame, *c, active)).collect();
                let width = parts.iter().map(|part| part.get().0).sum();
                let mut words = Vec::with_capacity(width * lanes);
                for lane in 0..lanes {
                    for part in &parts {
                        let (width, of) = part.get();
                        words.extend_from_slice(&of[lane * width..][..width]);
                    }
                }
                Value::words(width, words)
            }
            Expression::Splat { size, value } => {
                let value = self.eval(frame, *value, active);
                let size = *size as usize;
                Value::words(size, value.get().1.iter().flat_map(|w| std::iter::repeat_n(*w, size)).collect())
            }
            Expression::Swizzle { size, vector, pattern } => {
                let value = self.eval(frame, *vector, active);
                let (width, words) = value.get();
                let pattern = &pattern[..*size as usize];
                let found = words.chunks_exact(width);
                let found =
                    found.flat_map(|of| pattern.iter().map(|c: &SwizzleComponent| of[*c as usize])).collect();
                Value::words(pattern.len(), found)
            }
            Expression::Unary { op, expr } => {
                let kind = kind_of(self.inner(frame, *expr));
                let value = self.eval(frame, *expr, active);
                each(&value, |a| unary(*op, kind, a))
            }
            Expression::Binary { op, left, right } => {
                let kind = kind_of(self.inner(frame, *left));
                let (left, right) = (self.eval(frame, *left, active), self.eval(frame, *right, active));
                each_two(&left, &right, |a, b| binary(*op, kind, a, b))
            }
            Expression::Select { condition, accept, reject } => {
                let condition = self.eval(frame, *condition, active);
                let (accept, reject) = (self.eval(frame, *accept, active), self.eval(frame, *reject, active));
                let ((of, conditions), (width, yes), (_, no)) = (condition.get(), accept.get(), reject.get());
                let chosen = |i: usize| {
                    let condition = if of == 1 { conditions[i / width] } else { conditions[i] };
                    if condition != 0 { yes[i] } else { no[i] }
                };
                Value::words(width, (0..width * lanes).map(chosen).collect())
            }
            Expression::Relational { fun, argument } => {
                let value = self.eval(frame, *argument, active);
                let (width, words) = value.get();
                let found = words.chunks_exact(width).map(|of| {
                    u32::from(match fun {
                        RelationalFunction::All => of.iter().all(|w| *w != 0),
                        RelationalFunction::Any => of.iter().any(|w| *w != 0),
                        other => panic!("{other:?} is used by no kernel"),
                    })
                });
                Value::words(1, found.collect())
            }
            Expression::Math { fun, arg, arg1, arg2, .. } => {
                let kind = kind_of(self.inner(frame, *arg));
                let first = self.eval(frame, *arg, active);
                let second = arg1.map(|arg| self.eval(frame, arg, active));
                let third = arg2.map(|arg| self.eval(frame, arg, active));
                math(*fun, kind, &first, second.as_ref(), third.as_ref())
            }
            Expression::As { expr, kind, convert } => {
                let from = kind_of(self.inner(frame, *expr));
                let value = self.eval(frame, *expr, active);
                each(&value, |a| if convert.is_some() { convert_to(from, *kind, a) } else { a })
            }
            _ => self.constant(&function.expressions, expression),
        }
    }

    /// A number, or one made of others, outside any function too.
    fn constant(&self, arena: &'m naga::Arena<Expression>, expression: Handle<Expression>) -> Value {
        let lanes = self.program.lanes;
        let module = &self.program.module;
        let mut words = Vec::new();
        fn collect(
            program: &Program,
            arena: &naga::Arena<Expression>,
            expression: Handle<Expression>,
            words: &mut Vec<u32>,
        ) {
            let module = &program.module;
            match &arena[expression] {
                Expression::Literal(literal) => words.push(match *literal {
                    Literal::U32(value) => value,
                    Literal::I32(value) => value as u32,
                    Literal::F32(value) => value.to_bits(),
                    Literal::Bool(value) => value.into(),
                    other => panic!("{other:?} is used by no kernel"),
                }),
                Expression::Constant(constant) => {
                    collect(program, &module.global_expressions, module.constants[*constant].init, words);
                }
                Expression::ZeroValue(ty) => words.extend(vec![0; program.words(*ty)]),
                Expression::Compose { components, .. } => {
                    components.iter().for_each(|component| collect(program, arena, *component, words));
                }
                Expression::Splat { size, value } => {
                    for _ in 0..*size as usize {
                        collect(program, arena, *value, words);
                    }
                }
                other => panic!("{other:?} is used by no kernel"),
            }
        }
        let _ = module;
        collect(self.program, arena, expression, &mut words);
        Value::words(words.len(), words.repeat(lanes))
    }

    fn access(
        &mut self,
        frame: &mut Frame<'m>,
        base: Handle<Expression>,
        active: Mask,
        index: impl Fn(usize) -> usize,
    ) -> Value {
        let program = self.program;
        let inner = self.inner(frame, base);
        let value = self.eval(frame, base, active);
        match (&value, inner) {
            (Value::Pointer { root, offsets }, TypeInner::Pointer { base, .. }) => {
                let inner = &program.module.types[*base].inner;
                let moved = offsets.iter().enumerate();
                // Wrapping: lanes that are not active may have any index.
                let moved = moved.map(|(lane, offset)| {
                    let i = index(lane);
                    let before = match inner {
                        TypeInner::Struct { .. } => program.part(inner, i).0,
                        _ => i.wrapping_mul(program.part(inner, 0).1),
                    };
                    offset.wrapping_add(before as u32)
                });
                Value::Pointer { root: *root, offsets: Rc::new(moved.collect()) }
            }
            (Value::Pointer { root, offsets }, TypeInner::ValuePointer { .. }) => {
                let moved =
                    offsets.iter().enumerate().map(|(lane, offset)| offset.wrapping_add(index(lane) as u32));
                Value::Pointer { root: *root, offsets: Rc::new(moved.collect()) }
            }
            (Value::Words { width, words }, inner) => {
                let size = program.part(inner, 0).1;
                let size = if matches!(inner, TypeInner::Struct { .. }) {
                    program.part(inner, index(0)).1
                } else {
                    size
                };
                let mut found = Vec::with_capacity(size * program.lanes);
                for lane in 0..program.lanes {
                    let (first, _) = match inner {
                        TypeInner::Struct { .. } => program.part(inner, index(lane)),
                        _ => (index(lane).wrapping_mul(size), size),
                    };
                    // Lanes that are not active may have any index.
                    let first = first.min(width - size);
                    found.extend_from_slice(&words[lane * width + first..][..size]);
                }
                Value::words(size, found)
            }
            (Value::Pointer { .. }, other) => panic!("{other:?} cannot be indexed"),
        }
    }

    fn load(&mut self, frame: &mut Frame<'m>, pointer: Handle<Expression>, active: Mask) -> Value {
        let lanes = self.program.lanes;
        let width = match self.inner(frame, pointer) {
            TypeInner::Pointer { base, .. } => self.program.words(*base),
            TypeInner::ValuePointer { size, .. } => size.map_or(1, |size: VectorSize| size as usize),
            other => panic!("{other:?} is no pointer"),
        };
        let Value::Pointer { root, offsets } = self.eval(frame, pointer, active) else {
            panic!("a load wants a pointer")
        };
        let binding = self.binding(root);
        let mut words = vec![0; width * lanes];
        for lane in (0..lanes).filter(|lane| active.has(*lane)) {
            for i in 0..width {
                words[lane * width + i] = self.word(root, lane, offsets[lane].wrapping_add(i as u32));
            }
            if let Some(binding) = binding {
                let asked = self.requests.entry((binding, lane / 32)).or_default();
                asked.extend((0..width as u32).map(|i| offsets[lane].wrapping_add(i)));
            }
        }
        Value::words(width, words)
    }

    /// The number of a storage buffer.
    fn binding(&self, root: Root) -> Option<u32> {
        let Root::Global(variable) = root else { return None };
        self.program.module.global_variables[variable].binding.as_ref().map(|binding| binding.binding)
    }

    fn word(&self, root: Root, lane: usize, at: u32) -> u32 {
        match root {
            Root::Local(depth, first) => {
                let (width, words) = &self.stack[depth];
                words[lane * width + first + at as usize]
            }
            Root::Global(variable) => {
                if let Some(words) = self.shared.get(&variable) {
                    return words.get(at as usize).copied().unwrap_or_else(|| {
                        panic!("lane {lane} reads word {at} of {} of workgroup memory", words.len())
                    });
                }
                match self.binding(root) {
                    Some(binding) => {
                        let written = self.written.get(&(binding, at)).copied();
                        written.unwrap_or_else(|| (self.contents)(binding, at))
                    }
                    None => self.program.params.get(at as usize).copied().unwrap_or(0),
                }
            }
        }
    }

    fn set_word(&mut self, root: Root, lane: usize, at: u32, value: u32) {
        match root {
            Root::Local(depth, first) => {
                let (width, words) = &mut self.stack[depth];
                words[lane * *width + first + at as usize] = value;
            }
            Root::Global(variable) => {
                if let Some(words) = self.shared.get_mut(&variable) {
                    let length = words.len();
                    *words.get_mut(at as usize).unwrap_or_else(|| {
                        panic!("lane {lane} writes word {at} of {length} of workgroup memory")
                    }) = value;
                } else if let Some(binding) = self.binding(root) {
                    self.written.insert((binding, at), value);
                }
            }
        }
    }

    fn store(&mut self, root: Root, offsets: &[u32], value: &Value, active: Mask) {
        let (width, words) = value.get();
        for lane in (0..self.program.lanes).filter(|lane| active.has(*lane)) {
            for i in 0..width {
                self.set_word(root, lane, offsets[lane].wrapping_add(i as u32), words[lane * width + i]);
            }
        }
    }
}

/// Adds the words of one request.
fn count(sectors: &mut Sectors, mut words: Vec<u32>) {
    words.sort_unstable();
    words.dedup();
    let in_sector = SECTOR / 4;
    sectors.least += (words.len() as u64).div_ceil(u64::from(in_sector));
    words.iter_mut().for_each(|word| *word /= in_sector);
    words.dedup();
    sectors.touched += words.len() as u64;
}

fn kind_of(inner: &TypeInner) -> ScalarKind {
    match inner {
        TypeInner::Scalar(Scalar { kind, .. }) | TypeInner::Vector { scalar: Scalar { kind, .. }, .. } => {
            *kind
        }
        other => panic!("{other:?} is no number"),
    }
}

fn each(value: &Value, of: impl Fn(u32) -> u32) -> Value {
    let (width, words) = value.get();
    Value::words(width, words.iter().map(|word| of(*word)).collect())
}

/// Word by word; a scalar goes with every word of a vector.
fn each_two(left: &Value, right: &Value, of: impl Fn(u32, u32) -> u32) -> Value {
    let ((a, left), (b, right)) = (left.get(), right.get());
    let width = a.max(b);
    let count = left.len() / a * width;
    let at = |words: &[u32], of: usize, i: usize| if of == width { words[i] } else { words[i / width] };
    Value::words(width, (0..count).map(|i| of(at(left, a, i), at(right, b, i))).collect())
}

fn unary(op: UnaryOperator, kind: ScalarKind, a: u32) -> u32 {
    match (op, kind) {
        (UnaryOperator::Negate, ScalarKind::Float) => (-f32::from_bits(a)).to_bits(),
        (UnaryOperator::Negate, _) => a.wrapping_neg(),
        (UnaryOperator::LogicalNot, _) => u32::from(a == 0),
        (UnaryOperator::BitwiseNot, _) => !a,
    }
}

fn binary(op: BinaryOperator, kind: ScalarKind, a: u32, b: u32) -> u32 {
    use BinaryOperator as Op;
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let (i, j) = (a as i32, b as i32);
    let order = match kind {
        ScalarKind::Float => x.partial_cmp(&y),
        ScalarKind::Sint => Some(i.cmp(&j)),
        _ => Some(a.cmp(&b)),
    };
    let float = kind == ScalarKind::Float;
    match op {
        Op::Add if float => (x + y).to_bits(),
        Op::Subtract if float => (x - y).to_bits(),
        Op::Multiply if float => (x * y).to_bits(),
        Op::Divide if float => (x / y).to_bits(),
        Op::Modulo if float => (x % y).to_bits(),
        Op::Add => a.wrapping_add(b),
        Op::Subtract => a.wrapping_sub(b),
        Op::Multiply => a.wrapping_mul(b),
        Op::Divide if kind == ScalarKind::Sint => i.checked_div(j).unwrap_or(i) as u32,
        Op::Modulo if kind == ScalarKind::Sint => i.checked_rem(j).unwrap_or(0) as u32,
        Op::Divide => a.checked_div(b).unwrap_or(a),
        Op::Modulo => a.checked_rem(b).unwrap_or(0),
        Op::Equal => u32::from(order.is_some_and(|order| order.is_eq())),
        Op::NotEqual => u32::from(!order.is_some_and(|order| order.is_eq())),
        Op::Less => u32::from(order.is_some_and(|order| order.is_lt())),
        Op::LessEqual => u32::from(order.is_some_and(|order| order.is_le())),
        Op::Greater => u32::from(order.is_some_and(|order| order.is_gt())),
        Op::GreaterEqual => u32::from(order.is_some_and(|order| order.is_ge())),
        Op::And | Op::LogicalAnd => a & b,
        Op::ExclusiveOr => a ^ b,
        Op::InclusiveOr | Op::LogicalOr => a | b,
        Op::ShiftLeft => a.wrapping_shl(b),
        Op::ShiftRight if kind == ScalarKind::Sint => i.wrapping_shr(b) as u32,
        Op::ShiftRight => a.wrapping_shr(b),
    }
}

fn convert_to(from: ScalarKind, to: ScalarKind, a: u32) -> u32 {
    use ScalarKind::{Bool, Float, Sint, Uint};
    match (from, to) {
        (Float, Uint) => f32::from_bits(a) as u32,
        (Float, Sint) => f32::from_bits(a) as i32 as u32,
        (Float, Bool) => u32::from(f32::from_bits(a) != 0.0),
        (Sint, Float) => (a as i32 as f32).to_bits(),
        (Uint | Bool, Float) => (a as f32).to_bits(),
        (Uint | Sint, Bool) => u32::from(a != 0),
        _ => a,
    }
}

fn math(
    fun: MathFunction,
    kind: ScalarKind,
    first: &Value,
    second: Option<&Value>,
    third: Option<&Value>,
) -> Value {
    use MathFunction as Fun;
    let float = kind == ScalarKind::Float;
    let real = |of: fn(f32) -> f32| each(first, |a| of(f32::from_bits(a)).to_bits());
    let larger = |a: u32, b: u32| match kind {
        ScalarKind::Float => f32::from_bits(a).max(f32::from_bits(b)).to_bits(),
        ScalarKind::Sint => (a as i32).max(b as i32) as u32,
        _ => a.max(b),
    };
    let smaller = |a: u32, b: u32| match kind {
        ScalarKind::Float => f32::from_bits(a).min(f32::from_bits(b)).to_bits(),
        ScalarKind::Sint => (a as i32).min(b as i32) as u32,
        _ => a.min(b),
    };
    let operand = |value: Option<&Value>| value.expect("naga has checked it").clone();
    match fun {
        Fun::Exp => real(f32::exp),
        Fun::Sqrt => real(f32::sqrt),
        Fun::InverseSqrt => real(|x| x.sqrt().recip()),
        Fun::Floor => real(f32::floor),
        Fun::Log => real(f32::ln),
        Fun::Abs if float => real(f32::abs),
        Fun::Max => each_two(first, &operand(second), larger),
        Fun::Min => each_two(first, &operand(second), smaller),
        Fun::Clamp => each_two(&each_two(first, &operand(second), larger), &operand(third), smaller),
        Fun::Fma => {
            let product =
                each_two(first, &operand(second), |a, b| (f32::from_bits(a) * f32::from_bits(b)).to_bits());
            each_two(&product, &operand(third), |a, b| (f32::from_bits(a) + f32::from_bits(b)).to_bits())
        }
        Fun::Unpack2x16float => {
            let (_, words) = first.get();
            let half = |bits: u32| half::f16::from_bits(bits as u16).to_f32().to_bits();
            Value::words(2, words.iter().flat_map(|w| [half(w & 0xffff), half(w >> 16)]).collect())
        }
        Fun::CountOneBits => each(first, u32::count_ones),
        Fun::CountLeadingZeros => each(first, u32::leading_zeros),
        Fun::FirstTrailingBit => each(first, |a| if a == 0 { u32::MAX } else { a.trailing_zeros() }),
        other => panic!("{other:?} is used by no kernel"),
    }
}
