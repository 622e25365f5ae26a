package tracing

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// NewJSON returns an exporter that gives the spans to write as one line of
// OTLP's JSON encoding, which collectors read from files and over HTTP.
func NewJSON(write func([]byte) error) sdktrace.SpanExporter {
	return otlptrace.NewUnstarted(jsonClient{write})
}

// A jsonClient is an OTLP client that sends nothing away.
type jsonClient struct{ write func([]byte) error }

func (jsonClient) Start(context.Context) error { return nil }
func (jsonClient) Stop(context.Context) error  { return nil }

func (c jsonClient) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	line, err := encodeJSON(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	return c.write(line)
}

// encodeJSON returns a line of JSON. OTLP differs from protobuf's JSON mapping
// in two ways: enums are numbers, and the IDs of traces and spans are in hex.
func encodeJSON(data *tracepb.TracesData) ([]byte, error) {
	data = proto.CloneOf(data)
	for _, rs := range data.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				s.TraceId, s.SpanId, s.ParentSpanId = asHex(s.TraceId), asHex(s.SpanId), asHex(s.ParentSpanId)
				for _, l := range s.Links {
					l.TraceId, l.SpanId = asHex(l.TraceId), asHex(l.SpanId)
				}
			}
		}
	}
	dt, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(data)
	if err != nil {
		return nil, err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, dt); err != nil { // protojson's white space is random
		return nil, err
	}
	line.WriteByte('\n')
	return line.Bytes(), nil
}

// asHex returns the bytes whose base64, which is what protobuf's JSON has of
// bytes, reads as id in hex: 32 or 16 digits are whole groups of four.
func asHex(id []byte) []byte {
	dt, err := base64.StdEncoding.DecodeString(hex.EncodeToString(id))
	if err != nil {
		return id
	}
	return dt
}
