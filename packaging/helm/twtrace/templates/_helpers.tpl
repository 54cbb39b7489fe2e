{{- define "twtrace.labels" -}}
app.kubernetes.io/name: twtrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "twtrace.allLabels" -}}
{{ include "twtrace.labels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "twtrace.name" -}}
{{- if contains "twtrace" .Release.Name }}{{ .Release.Name | trunc 52 }}{{ else }}{{ printf "%s-twtrace" (.Release.Name | trunc 44) }}{{ end -}}
{{- end }}
