//! What a procedure and an event are to the type system, and the macros that make them from one declaration each.

use crate::xdr::Xdr;

/// A call: the arguments of one procedure.
pub trait Call: Xdr + Send + 'static {
    /// What the procedure answers.
    type Reply: Xdr + Send + 'static;
    /// The procedure.
    const PROCEDURE: crate::Procedure;

    /// Whether a read-only connection may make this call, with these arguments.
    fn allowed_read_only(&self) -> bool;
}

/// An event: the body of a MESSAGE packet of the remote program.
pub trait Event: Xdr {
    /// Its number.
    const NUMBER: u32;
}

/// Declares the procedures: `NUMBER Name "public name" [access] { arguments } -> Reply { fields };`.
macro_rules! procedures {
    ($($number:literal $name:ident $public:literal [$($access:tt)*] { $($args:tt)* }
        -> $(())? $($reply:ident { $($fields:tt)* })?;)*) => {
        /// Every procedure that has types here. The value is its number; procedures of the QEMU program have 0x10000 added.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Procedure { $($name = $number,)* }

        impl Procedure {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The procedure with this number, as [`Self::key`] counts.
            pub(crate) fn from_key(key: u32) -> Option<Self> {
                match key {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name of the public function behind the procedure, which libvirt's messages use.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $public,)* }
            }

            /// Reads `bytes` as arguments and writes them again.
            #[cfg(any(test, fuzzing))]
            pub(crate) fn recode_arguments(self, bytes: &[u8]) -> Result<Vec<u8>, $crate::xdr::XdrError> {
                match self { $(Self::$name => $crate::call::recode::<$name>(bytes),)* }
            }

            /// Reads `bytes` as reply and writes them again.
            #[cfg(any(test, fuzzing))]
            pub(crate) fn recode_reply(self, bytes: &[u8]) -> Result<Vec<u8>, $crate::xdr::XdrError> {
                match self {
                    $(Self::$name => $crate::call::recode::<<$name as $crate::call::Call>::Reply>(bytes),)*
                }
            }

            /// Wire forms of arguments and of a reply with values from `source`.
            #[cfg(test)]
            pub(crate) fn samples(self, source: &mut $crate::samples::Source<'_>) -> (Vec<u8>, Vec<u8>) {
                match self {
                    $(Self::$name => (
                        $crate::samples::round_trip::<$name>(source),
                        $crate::samples::round_trip::<<$name as $crate::call::Call>::Reply>(source),
                    ),)*
                }
            }
        }

        $(
            $crate::xdr::structures! { pub struct $name { $($args)* } }
            $($crate::xdr::structures! { pub struct $reply { $($fields)* } })?

            impl $crate::call::Call for $name {
                type Reply = $crate::call::reply!($($reply)?);
                const PROCEDURE: Procedure = Procedure::$name;
                fn allowed_read_only(&self) -> bool {
                    $crate::call::access!(self, $($access)*)
                }
            }
        )*
    };
}
pub(crate) use procedures;

macro_rules! reply {
    () => {
        ()
    };
    ($reply:ident) => {
        $reply
    };
}
pub(crate) use reply;

macro_rules! access {
    ($args:ident, read) => { true };
    ($args:ident, write) => { false };
    ($args:ident, read if $field:ident $($condition:tt)*) => { $args.$field $($condition)* };
}
pub(crate) use access;

/// Declares the events: `NUMBER Name { fields };`.
macro_rules! events {
    ($($number:literal $name:ident { $($fields:tt)* };)*) => {
        $(
            $crate::xdr::structures! { pub struct $name { $($fields)* } }
            impl $crate::call::Event for $name {
                const NUMBER: u32 = $number;
            }
        )*

        /// Reads `bytes` as the event `number` and writes them again; none when there is no such event.
        #[cfg(any(test, fuzzing))]
        pub(crate) fn recode_event(number: u32, bytes: &[u8]) -> Option<Result<Vec<u8>, $crate::xdr::XdrError>> {
            match number {
                $($number => Some($crate::call::recode::<$name>(bytes)),)*
                _ => None,
            }
        }

        /// Wire forms of each event with values from `source`.
        #[cfg(test)]
        pub(crate) fn event_samples(source: &mut $crate::samples::Source<'_>) -> Vec<(u32, Vec<u8>)> {
            vec![$(($number, $crate::samples::round_trip::<$name>(source)),)*]
        }
    };
}
pub(crate) use events;

/// Reads a value and writes it again.
#[cfg(any(test, fuzzing))]
pub(crate) fn recode<T: Xdr>(bytes: &[u8]) -> Result<Vec<u8>, crate::xdr::XdrError> {
    let mut out = Vec::new();
    T::from_bytes(bytes)?.encode(&mut out)?;
    Ok(out)
}
