//! Random values of every type of the wire, for property tests.

use crate::types::{ModelName, TypedValue};
use crate::xdr::{Opaque, Uuid, Xdr};

/// Where values come from: bytes that a property test chose; zeroes when they are used up.
pub(crate) struct Source<'a>(pub(crate) &'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }
}

pub(crate) trait Sample {
    fn sample(source: &mut Source<'_>) -> Self;
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Sample for $type {
            fn sample(source: &mut Source<'_>) -> Self {
                Self::from_be_bytes(source.bytes())
            }
        }
    )*};
}
number!(i8, u8, i16, u16, i32, u32, i64, u64);

impl Sample for f64 {
    fn sample(source: &mut Source<'_>) -> Self {
        f64::from(i32::sample(source)) / 3.0
    }
}

impl Sample for bool {
    fn sample(source: &mut Source<'_>) -> Self {
        source.byte() & 1 == 1
    }
}

impl Sample for String {
    fn sample(source: &mut Source<'_>) -> Self {
        let length = source.byte() % 12;
        (0..length).map(|_| char::from(source.byte().max(1))).collect()
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(source: &mut Source<'_>) -> Self {
        bool::sample(source).then(|| T::sample(source))
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(source: &mut Source<'_>) -> Self {
        let length = source.byte() % 5;
        (0..length).map(|_| T::sample(source)).collect()
    }
}

impl Sample for Opaque {
    fn sample(source: &mut Source<'_>) -> Self {
        Self(Vec::sample(source))
    }
}

impl Sample for Uuid {
    fn sample(source: &mut Source<'_>) -> Self {
        Self(source.bytes())
    }
}

impl Sample for () {
    fn sample(_: &mut Source<'_>) -> Self {}
}

impl Sample for ModelName {
    fn sample(source: &mut Source<'_>) -> Self {
        Self::new(&String::sample(source))
    }
}

impl Sample for TypedValue {
    fn sample(source: &mut Source<'_>) -> Self {
        match source.byte() % 7 {
            0 => Self::Int(Sample::sample(source)),
            1 => Self::UInt(Sample::sample(source)),
            2 => Self::LLong(Sample::sample(source)),
            3 => Self::ULLong(Sample::sample(source)),
            4 => Self::Double(Sample::sample(source)),
            5 => Self::Boolean(Sample::sample(source)),
            _ => Self::String(Sample::sample(source)),
        }
    }
}

/// Writes a random value, reads it again, finds it equal, and no truncation of it readable. Returns the wire form.
pub(crate) fn round_trip<T: Sample + Xdr>(source: &mut Source<'_>) -> Vec<u8> {
    let value = T::sample(source);
    let mut bytes = Vec::new();
    value.encode(&mut bytes).unwrap();
    assert!(bytes.len() >= T::MIN_BYTES && bytes.len().is_multiple_of(4));
    let mut again = Vec::new();
    T::from_bytes(&bytes).unwrap().encode(&mut again).unwrap();
    assert_eq!(bytes, again);
    for cut in (0..bytes.len()).step_by(4) {
        assert!(T::from_bytes(&bytes[..cut]).is_err(), "{cut} of {} bytes", bytes.len());
    }
    bytes
}

mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Procedure;
    use crate::events::{event_samples, recode_event};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn arguments_and_replies_of_every_procedure_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            for (index, procedure) in Procedure::ALL.iter().enumerate() {
                let start = index % bytes.len().max(1);
                let (arguments, reply) = procedure.samples(&mut Source(&bytes[start.min(bytes.len())..]));
                prop_assert_eq!(procedure.recode_arguments(&arguments), Ok(arguments));
                prop_assert_eq!(procedure.recode_reply(&reply), Ok(reply));
            }
        }

        #[test]
        fn every_event_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for (number, event) in event_samples(&mut Source(&bytes)) {
                prop_assert_eq!(recode_event(number, &event), Some(Ok(event)));
            }
        }

        #[test]
        fn what_is_read_from_damaged_packets_writes_the_same_bytes(
            bytes in prop::collection::vec(any::<u8>(), 64..600),
            at in any::<prop::sample::Index>(),
            to in any::<u8>(),
        ) {
            for procedure in Procedure::ALL {
                let (mut arguments, _) = procedure.samples(&mut Source(&bytes));
                if arguments.is_empty() { continue; }
                let at = at.index(arguments.len());
                arguments[at] = to;
                if let Ok(again) = procedure.recode_arguments(&arguments) {
                    prop_assert_eq!(again, arguments);
                }
            }
        }
    }
}
