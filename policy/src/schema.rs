//! What the texts of rules look like, as JSON Schema has it (feature `schema`): for editors. The parsers say more, and have the last word.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::bus::{BusService, DevicePattern};
use crate::capability::Capability;
use crate::ether_type::EtherType;
use crate::host::HostPattern;
use crate::port::PortRange;
use crate::subject::SubjectPattern;
use crate::terms::{Redirects, Tls};
use crate::trust::{Pin, Pins};

/// Types that are texts in a file: their names, and what is said of them.
macro_rules! text {
    ($($type:ty, $name:literal, $schema:expr;)*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

text! {
    Capability, "Capability", json_schema!({
        "type": "string",
        "enum": Capability::ALL.map(Capability::name),
    });
    Tls, "Tls", json_schema!({
        "type": "string",
        "enum": [Tls::Required.name(), Tls::Any.name()],
    });
    Redirects, "Redirects", json_schema!({
        "type": "string",
        "enum": [Redirects::SameHost.name(), Redirects::Granted.name()],
        "default": Redirects::SameHost.name(),
    });
    SubjectPattern, "Subject", json_schema!({
        "type": "string",
        "pattern": r"^(any|(user|group|unit):\S+)$",
        "examples": ["any", "user:alice", "user:1000", "group:staff", "unit:backup.service"],
    });
    PortRange, "Ports", json_schema!({
        "type": "string",
        "pattern": r"^ *[0-9]{1,5} *(- *[0-9]{1,5} *)?$",
        "examples": ["443", "8000-8999"],
    });
    HostPattern, "Hosts", json_schema!({
        "type": "string",
        "pattern": r"^(\*\.)?[^*\s]+$",
        "examples": ["example.org", "*.example.org"],
    });
    DevicePattern, "Devices", json_schema!({
        "type": "string",
        "pattern": r#"^[^*/"\\\s]+\*?$"#,
        "examples": ["camera-1", "camera-*"],
    });
    BusService, "Services", json_schema!({
        "type": "string",
        "pattern": r#"^[^*/"\\\s]+$"#,
        "examples": ["video"],
    });
    EtherType, "EtherType", json_schema!({
        "type": "string",
        "pattern": "^0x[0-9A-Fa-f]{4}$",
        "examples": ["0x88b5"],
    });
    Pin, "Pin", json_schema!({
        "type": "string",
        "pattern": "^sha256/[A-Za-z0-9+/]{43}=$",
    });
}

impl JsonSchema for Pins {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Pins".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": generator.subschema_for::<HostPattern>(),
            "additionalProperties": {
                "type": "array",
                "items": generator.subschema_for::<Pin>(),
                "minItems": 1,
            },
            "default": {},
        })
    }
}
